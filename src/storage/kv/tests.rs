//! What a store promises, whichever the host keeps it in; and what a file promises besides.

use super::*;
use std::time::Instant;
use tempfile::TempDir;

const LIMITS: StoreLimits = StoreLimits { size_bytes_max: 1 << 30, ttl: None };

/// A store in a file and one in memory.
fn stores(limits: StoreLimits) -> (TempDir, [Arc<Store>; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let file = Arc::new(Embedded::open(&folder.path().join("store.db")).unwrap());
    let stores = [Store::embedded(file, limits), Store::memory(Arc::default(), limits)];
    (folder, stores.map(Arc::new))
}

fn text(value: Option<Vec<u8>>) -> Option<String> {
    value.map(|value| String::from_utf8(value).unwrap())
}

/// Waits until a key is gone.
async fn wait_for_absence(store: &Store, key: &str) {
    let begin = Instant::now();
    while store.exists(key).await.unwrap() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{key} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_was_set_is_there_until_it_is_deleted() {
    let (_folder, stores) = stores(LIMITS);
    for store in stores {
        assert_eq!(store.get("a").await.unwrap(), None);
        store.set("a", b"one".to_vec()).await.unwrap();
        store.set("a", b"two".to_vec()).await.unwrap();
        store.set("empty", Vec::new()).await.unwrap();
        store.set("with \0 and \u{1F980}", vec![0, 255]).await.unwrap();
        assert_eq!(text(store.get("a").await.unwrap()), Some("two".to_owned()));
        assert_eq!(store.get("empty").await.unwrap(), Some(Vec::new()));
        assert_eq!(store.get("with \0 and \u{1F980}").await.unwrap(), Some(vec![0, 255]));
        assert_eq!(store.get("with ").await.unwrap(), None);
        assert!(store.exists("a").await.unwrap());
        store.delete("a").await.unwrap();
        store.delete("a").await.unwrap();
        assert!(!store.exists("a").await.unwrap());
        assert_eq!(store.get("a").await.unwrap(), None);
    }
}

#[tokio::test]
async fn several_keys_are_read_in_their_order_and_written_together() {
    let (_folder, stores) = stores(StoreLimits { size_bytes_max: 10_000, ..LIMITS });
    let pair = |key: &str, value: &[u8]| (key.to_owned(), value.to_vec());
    for store in stores {
        store.set_many(vec![pair("a", b"1"), pair("b", b"2"), pair("a", b"3")]).await.unwrap();
        let keys = ["b", "none", "a", "b"].map(str::to_owned);
        let values: Vec<_> = store.get_many(&keys).await.unwrap().into_iter().map(text).collect();
        assert_eq!(values, ["2", "", "3", "2"].map(|value| (!value.is_empty()).then(|| value.to_owned())));
        // One that does not fit keeps the others out.
        let refused = store.set_many(vec![pair("c", b"4"), pair("d", &[0; 10_000])]).await;
        assert_eq!(refused, Err(StoreError::NoSpace));
        assert!(!store.exists("c").await.unwrap());
        store.delete_many(["a", "none", "b"].map(str::to_owned).to_vec()).await.unwrap();
        assert_eq!(store.keys().await.unwrap(), [""; 0]);
        assert_eq!(store.get_many(&[]).await.unwrap(), []);
        store.set_many(Vec::new()).await.unwrap();
        store.delete_many(Vec::new()).await.unwrap();
    }
}

#[tokio::test]
async fn keys_values_and_calls_are_bounded() {
    let (_folder, stores) = stores(LIMITS);
    for store in stores {
        let longest = "k".repeat(KEY_BYTES_MAX);
        store.set(&longest, vec![7; VALUE_BYTES_MAX]).await.unwrap();
        assert_eq!(store.get(&longest).await.unwrap().unwrap().len(), VALUE_BYTES_MAX);
        for key in [String::new(), longest.clone() + "k"] {
            let refused = StoreError::Key(key.len());
            assert_eq!(store.set(&key, Vec::new()).await, Err(refused.clone()));
            assert_eq!(store.get(&key).await, Err(refused.clone()));
            assert_eq!(store.exists(&key).await, Err(refused.clone()));
            assert_eq!(store.delete(&key).await, Err(refused.clone()));
            assert_eq!(store.increment(&key, 1).await, Err(refused.clone()));
            assert_eq!(store.swap(&key, None, Vec::new()).await, Err(refused.clone()));
            assert_eq!(store.get_many(std::slice::from_ref(&key)).await, Err(refused));
        }
        let too_large = Err(StoreError::TooLarge(VALUE_BYTES_MAX + 1));
        assert_eq!(store.set("a", vec![0; VALUE_BYTES_MAX + 1]).await, too_large);
        let many = vec!["a".to_owned(); BATCH_MAX + 1];
        assert_eq!(store.get_many(&many).await, Err(StoreError::TooMany(BATCH_MAX + 1)));
        assert_eq!(store.delete_many(many).await, Err(StoreError::TooMany(BATCH_MAX + 1)));
        let many = vec![longest.clone(), longest.clone(), longest];
        assert_eq!(store.get_many(&many).await, Err(StoreError::ResultTooLarge));
    }
}

#[tokio::test]
async fn a_store_that_is_full_lets_go_of_what_it_has() {
    let entry = |value_bytes: u64| 128 + 1 + value_bytes;
    let (_folder, stores) = stores(StoreLimits { size_bytes_max: entry(100) + entry(200), ..LIMITS });
    for store in stores {
        store.set("a", vec![0; 100]).await.unwrap();
        store.set("b", vec![0; 200]).await.unwrap();
        for _ in 0..3 {
            assert_eq!(store.set("a", vec![0; 101]).await, Err(StoreError::NoSpace));
            assert_eq!(store.set("c", Vec::new()).await, Err(StoreError::NoSpace));
            assert_eq!(store.increment("c", 1).await, Err(StoreError::NoSpace));
            assert_eq!(store.swap("c", None, Vec::new()).await, Err(StoreError::NoSpace));
        }
        store.set("a", vec![1; 100]).await.unwrap();
        store.set("a", vec![1; 99]).await.unwrap();
        store.set("b", vec![1; 201]).await.unwrap();
        store.delete("b").await.unwrap();
        store.set("c", vec![0; 201]).await.unwrap();
    }
}

#[tokio::test]
async fn a_value_goes_when_its_time_is_over() {
    let ttl = Duration::from_millis(60);
    let (_folder, stores) = stores(StoreLimits { size_bytes_max: 1000, ttl: Some(ttl) });
    for store in stores {
        for key in ["a", "b", "c"] {
            store.set(key, vec![b'7'; 100]).await.unwrap();
        }
        assert_eq!(store.set("d", vec![0; 500]).await, Err(StoreError::NoSpace));
        wait_for_absence(&store, "c").await;
        assert_eq!(store.get("a").await.unwrap(), None);
        assert_eq!(store.get_many(&["a".to_owned()]).await.unwrap(), [None]);
        assert_eq!(store.keys().await.unwrap(), [""; 0]);
        assert_eq!(store.increment("a", 2).await.unwrap(), 2);
        assert_eq!(store.swap("b", None, b"new".to_vec()).await.unwrap(), Swap::Swapped);
        // Their room is free, too.
        store.set("d", vec![0; 400]).await.unwrap();
        // A change counts the time anew.
        let begin = Instant::now();
        let mut sum = 2;
        while begin.elapsed() < ttl * 3 {
            let now = store.increment("a", 1).await.unwrap();
            // A machine may stand still for that long.
            assert!(now == sum + 1 || now == 1, "{now}");
            sum = now;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        wait_for_absence(&store, "a").await;
    }
}

#[tokio::test]
async fn numbers_are_text_and_sums_are_exact() {
    let (_folder, stores) = stores(LIMITS);
    for store in stores {
        assert_eq!(store.increment("n", 5).await.unwrap(), 5);
        assert_eq!(store.increment("n", -12).await.unwrap(), -7);
        assert_eq!(text(store.get("n").await.unwrap()), Some("-7".to_owned()));
        assert_eq!(store.increment("n", i64::MIN).await, Err(StoreError::Overflow));
        assert_eq!(store.increment("n", 7).await.unwrap(), 0);
        assert_eq!(store.increment("n", i64::MAX).await.unwrap(), i64::MAX);
        assert_eq!(store.increment("n", 1).await, Err(StoreError::Overflow));
        for not_a_number in ["", " 1", "1 ", "+1", "01", "-0", "1.0", "9223372036854775808", "one", "\u{ff}"] {
            store.set("t", not_a_number.into()).await.unwrap();
            assert_eq!(store.increment("t", 1).await, Err(StoreError::NotANumber), "{not_a_number:?}");
        }
        store.set("t", vec![0xff]).await.unwrap();
        assert_eq!(store.increment("t", 1).await, Err(StoreError::NotANumber));
    }
}

#[tokio::test]
async fn a_swap_wants_the_value_that_it_knows() {
    let (_folder, stores) = stores(LIMITS);
    for store in stores {
        assert_eq!(store.swap("a", Some(b"x"), b"1".to_vec()).await.unwrap(), Swap::Changed(None));
        assert_eq!(store.swap("a", None, b"1".to_vec()).await.unwrap(), Swap::Swapped);
        assert_eq!(store.swap("a", None, b"2".to_vec()).await.unwrap(), Swap::Changed(Some(b"1".to_vec())));
        assert_eq!(store.swap("a", Some(b""), b"2".to_vec()).await.unwrap(), Swap::Changed(Some(b"1".to_vec())));
        assert_eq!(store.swap("a", Some(b"1"), b"2".to_vec()).await.unwrap(), Swap::Swapped);
        assert_eq!(text(store.get("a").await.unwrap()), Some("2".to_owned()));
    }
}

#[tokio::test]
async fn a_key_that_stays_is_on_one_page_whatever_happens_around_it() {
    let (_folder, stores) = stores(LIMITS);
    for store in stores {
        let key = |number: usize| format!("key{number:05}");
        // In an order that is not that of their bytes.
        let pairs = (0..3000).map(|number| (key(number * 7 % 3000), Vec::new()));
        store.set_many(pairs.collect()).await.unwrap();
        assert_eq!(store.keys().await.unwrap(), (0..3000).map(key).collect::<Vec<_>>());

        let first = store.list(None).await.unwrap();
        assert_eq!(first.keys, (0..1000).map(key).collect::<Vec<_>>());
        store.delete_many((0..3000).filter(|number| number % 2 == 0).map(key).collect()).await.unwrap();
        let second = store.list(first.next.as_deref()).await.unwrap();
        assert_eq!(second.keys, (1000..3000).filter(|number| number % 2 == 1).map(key).collect::<Vec<_>>());
        assert_eq!(second.next, None);

        let mut seen = Vec::new();
        let mut page = store.list_numbered(None).await.unwrap();
        assert_eq!(page.keys.len(), 1000);
        assert_eq!(page.keys[..3], [key(7), key(21), key(35)]);
        store.delete_many((0..100).map(key).collect()).await.unwrap();
        loop {
            seen.extend(page.keys);
            let Some(next) = page.next else { break };
            page = store.list_numbered(Some(next)).await.unwrap();
        }
        seen.retain(|seen| seen.as_str() >= "key00100");
        seen.sort();
        assert_eq!(seen, (100..3000).filter(|number| number % 2 == 1).map(key).collect::<Vec<_>>());
        assert_eq!(store.list_numbered(Some(u64::MAX)).await.unwrap(), Page { keys: Vec::new(), next: None });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_at_once_are_as_if_one_after_the_other() {
    let (_folder, stores) = stores(LIMITS);
    for store in stores {
        store.set("text", b"text".to_vec()).await.unwrap();
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..64_u32 {
            let store = Arc::clone(&store);
            clients.spawn(async move {
                for round in 0..20 {
                    store.increment("sum", 1).await.unwrap();
                    store.set(&format!("{client}/{round}"), vec![0; 100]).await.unwrap();
                    assert_eq!(store.increment("text", 1).await, Err(StoreError::NotANumber));
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
        assert_eq!(text(store.get("sum").await.unwrap()), Some((64 * 20).to_string()));
        assert_eq!(store.keys().await.unwrap().len(), 64 * 20 + 2);
    }
}

#[tokio::test]
async fn a_store_knows_to_the_byte_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let file = Arc::new(Embedded::open(&path).unwrap());
    let lasting = Store::embedded(Arc::clone(&file), LIMITS);
    let brief = Store::embedded(file, StoreLimits { ttl: Some(Duration::from_millis(1)), ..LIMITS });
    let random = || format!("{}", fastrand::u32(0..40));
    for _ in 0..500 {
        let store = if fastrand::bool() { &lasting } else { &brief };
        let value = || vec![b'1'; fastrand::usize(0..3000)];
        match fastrand::u32(0..6) {
            0 | 1 => store.set(&random(), value()).await.unwrap(),
            2 => store.set_many((0..5).map(|_| (random(), value())).collect()).await.unwrap(),
            3 => store.delete_many((0..5).map(|_| random()).collect()).await.unwrap(),
            4 => drop(store.increment(&random(), 1).await),
            _ => drop(store.swap(&random(), None, value()).await.unwrap()),
        }
    }
    let connection = rusqlite::Connection::open(&path).unwrap();
    let noted: i64 = connection.query_row("SELECT bytes FROM total", [], |row| row.get(0)).unwrap();
    let sum = "SELECT sum(128 + octet_length(key) + octet_length(value)) FROM entries";
    let counted: i64 = connection.query_row(sum, [], |row| row.get(0)).unwrap();
    assert_eq!(noted, counted);
}

#[tokio::test]
async fn what_a_file_has_is_there_when_it_is_opened_again_by_two() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let open = || Arc::new(Store::embedded(Arc::new(Embedded::open(&path).unwrap()), LIMITS));
    let first = open();
    first.set("a", b"1".to_vec()).await.unwrap();
    drop(first);
    let both = [open(), open()];
    let clients = both.iter().map(|store| async {
        for _ in 0..50 {
            store.increment("a", 1).await.unwrap();
        }
    });
    let [one, other] = clients.collect::<Vec<_>>().try_into().ok().unwrap();
    tokio::join!(one, other);
    for store in both {
        assert_eq!(text(store.get("a").await.unwrap()), Some("101".to_owned()));
    }
}

#[tokio::test]
async fn whoever_goes_away_holds_nobody_up() {
    let (_folder, [store, _]) = stores(LIMITS);
    for number in 0..200 {
        let key = number.to_string();
        let mut gone = std::pin::pin!(store.set(&key, vec![0; 1000]));
        // Asked once, so that it waits in the queue.
        let _ = std::future::poll_fn(|cx| std::task::Poll::Ready(gone.as_mut().poll(cx).is_ready())).await;
        tokio::task::yield_now().await;
    }
    store.set("last", Vec::new()).await.unwrap();
    assert_eq!(store.keys().await.unwrap().len(), 201);
    assert_eq!(store.waiting_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_waits_is_bounded() {
    let (_folder, [store, _]) = stores(LIMITS);
    let key = |number: u32| number.to_string();
    let keys: Vec<String> = (0..40).map(key).collect();
    let mut sets: Vec<_> = keys.iter().map(|key| Box::pin(store.set(key, vec![0; VALUE_BYTES_MAX]))).collect();
    let mut refused = 0;
    for set in &mut sets {
        let asked = std::future::poll_fn(|cx| std::task::Poll::Ready(set.as_mut().poll(cx))).await;
        if let std::task::Poll::Ready(answer) = asked {
            assert_eq!(answer, Err(StoreError::Busy));
            refused += 1;
        }
    }
    assert!(refused >= 8, "{refused}");
    drop(sets);
    assert_eq!(store.waiting_bytes.load(Ordering::Relaxed), 0);
    store.set("last", vec![0; VALUE_BYTES_MAX]).await.unwrap();
}

#[tokio::test]
async fn a_file_that_fails_is_told_of_and_used_again_when_it_can_be() {
    let (folder, [store, _]) = stores(LIMITS);
    store.set("a", b"1".to_vec()).await.unwrap();
    let other = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    other.execute_batch("ALTER TABLE entries RENAME TO elsewhere").unwrap();
    for _ in 0..3 {
        let failed = store.set("a", b"2".to_vec()).await.unwrap_err();
        assert!(matches!(&failed, StoreError::Unavailable(text) if !text.contains("store.db")), "{failed}");
        assert!(matches!(store.get("a").await, Err(StoreError::Unavailable(_))));
    }
    other.execute_batch("ALTER TABLE elsewhere RENAME TO entries").unwrap();
    store.set("b", b"2".to_vec()).await.unwrap();
    assert_eq!(text(store.get("a").await.unwrap()), Some("1".to_owned()));
}

#[tokio::test]
async fn what_is_no_store_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    std::fs::write(&path, [7; 5000]).unwrap();
    assert!(matches!(Embedded::open(&path), Err(StoreError::Unavailable(_))));
    assert!(matches!(Embedded::open(&folder.path().join("none/store.db")), Err(StoreError::Unavailable(_))));
    for url in ["", "redis", "http://127.0.0.1", "redis://:secret@"] {
        let refused = Store::redis(url, "", None).unwrap_err();
        assert_eq!(refused, StoreError::Url, "{url}");
    }
    let store = Store::redis("redis://:secret@127.0.0.1:1/", "", None).unwrap();
    assert!(!format!("{store:?}").contains("secret"));
    let refused = store.get("a").await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
}
