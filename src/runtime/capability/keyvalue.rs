//! `wasi:keyvalue`: the stores that a function was granted, by name, at the two drafts that published guests import.
//!
//! A [`Bucket`] is what a guest has open, also by Spin's interfaces. **Invariant:** what a guest has seen and wants to swap is
//! bounded in sum; each of it may be as long as a value.

use super::bindings::wasi::{keyvalue0_2_0_draft as draft, keyvalue0_2_0_draft2 as draft2};
use crate::runtime::sandbox::{DataView, HasDataView, State};
use crate::storage::kv::{RESULT_BYTES_MAX, Store, StoreError, Swap};
use std::sync::Arc;
use wasmtime::StoreContextMut;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, Resource, Type};

/// A store that a guest has open.
#[expect(unreachable_pub, reason = "the bindings reexport it")]
pub struct Bucket(Arc<Store>);

/// A value that a guest has seen and wants to replace.
#[expect(unreachable_pub, reason = "the bindings reexport it")]
pub struct Cas {
    store: Arc<Store>,
    key: String,
    seen: Option<Vec<u8>>,
}

/// Why a guest was not given a handle.
pub(super) enum Refused {
    AccessDenied,
    TooMany,
}

/// What a guest is told that has as many handles as it may have.
pub(super) const TOO_MANY: &str = "too many stores and other things are open";

impl DataView<'_> {
    pub(super) fn open_store(&mut self, name: &str) -> Result<Resource<Bucket>, Refused> {
        let store = self.data.store(name).ok_or(Refused::AccessDenied)?;
        self.table.push(Bucket(Arc::clone(store))).map_err(|_| Refused::TooMany)
    }

    pub(super) fn store(&self, bucket: &Resource<Bucket>) -> wasmtime::Result<Arc<Store>> {
        Ok(Arc::clone(&self.table.get(bucket)?.0))
    }

    pub(super) fn close_store(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }

    fn remember(&mut self, cas: Cas) -> Result<Resource<Cas>, draft2::store::Error> {
        let others = self.table.iter_mut().filter_map(|entry| entry.downcast_ref::<Cas>());
        let bytes = cas.bytes() + others.map(Cas::bytes).sum::<usize>();
        if bytes > RESULT_BYTES_MAX {
            let told = format!("more than {} MiB were read to be swapped", RESULT_BYTES_MAX >> 20);
            return Err(draft2::store::Error::Other(told));
        }
        self.table.push(cas).map_err(|_| Refused::TooMany.into())
    }
}

impl Cas {
    fn bytes(&self) -> usize {
        self.seen.as_ref().map_or(0, Vec::len)
    }
}

/// The two drafts have the same functions, but for what a cursor is, and how a pair that is not there is told.
macro_rules! keyvalue_of {
    ($version:ident, $cursor:ty, $list:path, $pair:ty, $pair_of:path) => {
        impl $version::store::Host for DataView<'_> {
            async fn open(
                &mut self,
                identifier: String,
            ) -> wasmtime::Result<Result<Resource<Bucket>, $version::store::Error>> {
                Ok(self.open_store(&identifier).map_err(Into::into))
            }
        }

        impl $version::store::HostBucket for DataView<'_> {
            async fn get(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<Option<Vec<u8>>, $version::store::Error>> {
                Ok(self.store(&bucket)?.get(&key).await.map_err(Into::into))
            }

            async fn set(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
                value: Vec<u8>,
            ) -> wasmtime::Result<Result<(), $version::store::Error>> {
                Ok(self.store(&bucket)?.set(&key, value).await.map_err(Into::into))
            }

            async fn delete(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<(), $version::store::Error>> {
                Ok(self.store(&bucket)?.delete(&key).await.map_err(Into::into))
            }

            async fn exists(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<bool, $version::store::Error>> {
                Ok(self.store(&bucket)?.exists(&key).await.map_err(Into::into))
            }

            async fn list_keys(
                &mut self,
                bucket: Resource<Bucket>,
                cursor: Option<$cursor>,
            ) -> wasmtime::Result<Result<$version::store::KeyResponse, $version::store::Error>> {
                let store = self.store(&bucket)?;
                Ok($list(&store, cursor).await.map_err(Into::into))
            }

            async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                self.close_store(bucket)
            }
        }

        impl $version::batch::Host for DataView<'_> {
            async fn get_many(
                &mut self,
                bucket: Resource<Bucket>,
                keys: Vec<String>,
            ) -> wasmtime::Result<Result<Vec<$pair>, $version::store::Error>> {
                let store = self.store(&bucket)?;
                Ok(get_many(&store, keys, $pair_of).await.map_err(Into::into))
            }

            async fn set_many(
                &mut self,
                bucket: Resource<Bucket>,
                pairs: Vec<(String, Vec<u8>)>,
            ) -> wasmtime::Result<Result<(), $version::store::Error>> {
                Ok(self.store(&bucket)?.set_many(pairs).await.map_err(Into::into))
            }

            async fn delete_many(
                &mut self,
                bucket: Resource<Bucket>,
                keys: Vec<String>,
            ) -> wasmtime::Result<Result<(), $version::store::Error>> {
                Ok(self.store(&bucket)?.delete_many(keys).await.map_err(Into::into))
            }
        }

        impl From<Refused> for $version::store::Error {
            fn from(refused: Refused) -> Self {
                match refused {
                    Refused::AccessDenied => Self::AccessDenied,
                    Refused::TooMany => Self::Other(TOO_MANY.to_owned()),
                }
            }
        }

        impl From<StoreError> for $version::store::Error {
            fn from(error: StoreError) -> Self {
                Self::Other(error.to_string())
            }
        }
    };
}

keyvalue_of!(draft, u64, list_by_number, Option<(String, Vec<u8>)>, pair_if_there);
keyvalue_of!(draft2, String, list_by_key, (String, Option<Vec<u8>>), pair);

async fn list_by_number(store: &Store, cursor: Option<u64>) -> Result<draft::store::KeyResponse, StoreError> {
    let page = store.list_numbered(cursor).await?;
    Ok(draft::store::KeyResponse { keys: page.keys, cursor: page.next })
}

async fn list_by_key(store: &Store, cursor: Option<String>) -> Result<draft2::store::KeyResponse, StoreError> {
    let page = store.list(cursor.as_deref()).await?;
    Ok(draft2::store::KeyResponse { keys: page.keys, cursor: page.next })
}

/// One pair for each key, in their order.
async fn get_many<T>(
    store: &Store,
    keys: Vec<String>,
    pair_of: impl Fn(String, Option<Vec<u8>>) -> T,
) -> Result<Vec<T>, StoreError> {
    let values = store.get_many(&keys).await?;
    Ok(keys.into_iter().zip(values).map(|(key, value)| pair_of(key, value)).collect())
}

fn pair(key: String, value: Option<Vec<u8>>) -> (String, Option<Vec<u8>>) {
    (key, value)
}

fn pair_if_there(key: String, value: Option<Vec<u8>>) -> Option<(String, Vec<u8>)> {
    value.map(|value| (key, value))
}

impl draft::atomics::Host for DataView<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> wasmtime::Result<Result<u64, draft::store::Error>> {
        let store = self.store(&bucket)?;
        let Ok(delta) = i64::try_from(delta) else { return Ok(Err(StoreError::Overflow.into())) };
        let sum = store.increment(&key, delta).await;
        // By the other draft, a number can have come below zero.
        Ok(sum.and_then(|sum| u64::try_from(sum).map_err(|_| StoreError::Overflow)).map_err(Into::into))
    }
}

impl draft2::atomics::Host for DataView<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> wasmtime::Result<Result<i64, draft2::store::Error>> {
        Ok(self.store(&bucket)?.increment(&key, delta).await.map_err(Into::into))
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), draft2::atomics::CasError>> {
        let Cas { store, key, seen } = self.table.delete(cas)?;
        let error = match store.swap(&key, seen.as_deref(), value).await {
            Ok(Swap::Swapped) => return Ok(Ok(())),
            Ok(Swap::Changed(seen)) => match self.remember(Cas { store, key, seen }) {
                Ok(cas) => draft2::atomics::CasError::CasFailed(cas),
                Err(error) => draft2::atomics::CasError::StoreError(error),
            },
            Err(error) => draft2::atomics::CasError::StoreError(error.into()),
        };
        Ok(Err(error))
    }
}

impl draft2::atomics::HostCas for DataView<'_> {
    async fn new(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Resource<Cas>, draft2::store::Error>> {
        let store = self.store(&bucket)?;
        Ok(match store.get(&key).await {
            Ok(seen) => self.remember(Cas { store, key, seen }),
            Err(error) => Err(error.into()),
        })
    }

    async fn current(&mut self, cas: Resource<Cas>) -> wasmtime::Result<Result<Option<Vec<u8>>, draft2::store::Error>> {
        Ok(Ok(self.table.get(&cas)?.seen.clone()))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}

/// Adds both drafts to `linker`.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    draft::store::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    draft::atomics::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    draft::batch::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    draft2::store::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    draft2::atomics::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    draft2::batch::add_to_linker::<_, HasDataView>(linker, State::data_view)
}

const BATCH: &str = "wasi:keyvalue/batch@0.2.0-draft2";
const GET_MANY: &str = "get-many";

type Pairs = Result<Vec<Option<(String, Vec<u8>)>>, draft2::store::Error>;

/// Whether `component` imports the `get-many` that the proposal's text has, and not the one of Spin and its guests. Both
/// are in use at the same version.
pub(super) fn wants_other_get_many(component: &Component) -> bool {
    let (engine, whole) = (component.engine(), component.component_type());
    let Some(ComponentItem::ComponentInstance(batch)) = whole.get_import(engine, BATCH).map(|import| import.ty) else {
        return false;
    };
    let Some(ComponentItem::ComponentFunc(get_many)) = batch.get_export(engine, GET_MANY).map(|export| export.ty)
    else {
        return false;
    };
    let Some(Type::Result(result)) = get_many.results().next() else { return false };
    matches!(result.ok(), Some(Type::List(pairs)) if matches!(pairs.ty(), Type::Option(_)))
}

/// Puts that `get-many` in the place of Spin's.
pub(super) fn link_other_get_many(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance(BATCH)?.func_wrap_async(
        GET_MANY,
        |mut store: StoreContextMut<'_, State>, (bucket, keys): (Resource<Bucket>, Vec<String>)| {
            Box::new(async move {
                let store = store.data_mut().data_view().store(&bucket)?;
                let pairs: Pairs = get_many(&store, keys, pair_if_there).await.map_err(Into::into);
                Ok((pairs,))
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
