//! The latest receipts: a bounded ring, in memory.

use crate::names::RequestId;
use crate::receipt::Receipt;
use std::collections::VecDeque;

/// The ring.
pub(in crate::server) struct Recent {
    receipts: VecDeque<Receipt>,
    receipts_max: usize,
    /// How many there ever were.
    count: u64,
}

/// Where somebody who follows receipts stands.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct ReceiptCursor(u64);

impl Recent {
    pub(super) fn new(receipts_max: usize) -> Self {
        Self { receipts: VecDeque::new(), receipts_max, count: 0 }
    }

    pub(super) fn add(&mut self, receipt: &Receipt) {
        self.count += 1;
        if self.receipts.len() >= self.receipts_max {
            self.receipts.pop_front();
        }
        if self.receipts_max > 0 {
            self.receipts.push_back(receipt.clone());
        }
    }

    /// That of one request, if it is there still.
    pub(in crate::server) fn find(&self, request_id: RequestId) -> Option<&Receipt> {
        self.receipts.iter().rev().find(|receipt| receipt.request_id == request_id)
    }

    /// Those before `cursor`, which goes back to the last of them, the newest first, `receipts_max` at the most.
    pub(in crate::server) fn earlier(&self, cursor: &mut ReceiptCursor, receipts_max: usize) -> Vec<Receipt> {
        let newer = usize::try_from(self.count.saturating_sub(cursor.0)).unwrap_or(usize::MAX);
        let receipts: Vec<Receipt> = self.receipts.iter().rev().skip(newer).take(receipts_max).cloned().collect();
        cursor.0 = cursor.0.saturating_sub(receipts.len() as u64);
        receipts
    }

    /// From now on.
    pub(in crate::server) fn now(&self) -> ReceiptCursor {
        ReceiptCursor(self.count)
    }

    /// Those since `cursor`, which goes on to the last of them, and how many were missed: they came too fast.
    pub(in crate::server) fn follow(&self, cursor: &mut ReceiptCursor) -> (impl Iterator<Item = &Receipt>, u64) {
        let oldest = self.count - self.receipts.len() as u64;
        let missed = oldest.saturating_sub(cursor.0);
        let known = usize::try_from(cursor.0.saturating_sub(oldest)).unwrap_or(usize::MAX);
        cursor.0 = self.count;
        (self.receipts.iter().skip(known), missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_holds_the_latest_and_tells_what_was_missed() {
        let mut recent = Recent::new(3);
        let mut cursor = recent.now();
        let receipts: Vec<Receipt> = (0..5).map(|_| Receipt::sample()).collect();
        receipts.iter().take(2).for_each(|receipt| recent.add(receipt));
        assert_eq!(recent.follow(&mut cursor).0.count(), 2);
        let mut late = cursor;
        receipts.iter().skip(2).for_each(|receipt| recent.add(receipt));
        let (new, missed) = recent.follow(&mut cursor);
        assert_eq!((new.count(), missed), (3, 0));
        recent.add(&Receipt::sample());
        let (new, missed) = recent.follow(&mut late);
        assert_eq!((new.count(), missed), (3, 1));
        assert!(recent.find(receipts[2].request_id).is_none() && recent.find(receipts[4].request_id).is_some());
        let mut back = recent.now();
        let before = recent.earlier(&mut back, 2);
        assert_eq!(before.get(1).map(|receipt| receipt.request_id), Some(receipts[4].request_id));
        recent.add(&Receipt::sample());
        recent.add(&Receipt::sample());
        // What was to come next is out of the ring by now.
        assert_eq!(recent.earlier(&mut back, 2).len(), 0);
        let mut none = Recent::new(0);
        none.add(&Receipt::sample());
        assert_eq!(none.earlier(&mut none.now(), 9).len(), 0);
    }
}
