//! What the disk tier would be on redb: answers by key, their order for the eviction of the oldest, and the bytes held.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

const ANSWERS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("answers");
const ORDER: TableDefinition<'_, u64, (&[u8; 32], u64)> = TableDefinition::new("order");
const HELD: TableDefinition<'_, (), u64> = TableDefinition::new("held");

pub(crate) struct Rival {
    pub(crate) database: Database,
    cap: u64,
    next: AtomicU64,
}

impl Rival {
    pub(crate) fn open(file: &Path, cap: u64) -> Self {
        let database = Database::create(file).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(ANSWERS).unwrap();
        write.open_table(HELD).unwrap();
        let next = write.open_table(ORDER).unwrap().last().unwrap().map_or(0, |(last, _)| last.value() + 1);
        write.commit().unwrap();
        Self { database, cap, next: AtomicU64::new(next) }
    }

    pub(crate) fn put(&self, key: &[u8; 32], bytes: &[u8], durability: Durability) {
        let mut write = self.database.begin_write().unwrap();
        write.set_durability(durability).unwrap();
        {
            let mut answers = write.open_table(ANSWERS).unwrap();
            let mut order = write.open_table(ORDER).unwrap();
            let mut held = write.open_table(HELD).unwrap();
            let mut sum = held.get(()).unwrap().map_or(0, |sum| sum.value()) + bytes.len() as u64;
            while sum > self.cap {
                let Some((_, oldest)) = order.pop_first().unwrap() else { break };
                let (key, length) = oldest.value();
                answers.remove(key).unwrap();
                sum -= length;
            }
            answers.insert(key, bytes).unwrap();
            order.insert(self.next.fetch_add(1, Ordering::Relaxed), (key, bytes.len() as u64)).unwrap();
            held.insert((), sum).unwrap();
        }
        write.commit().unwrap();
    }

    pub(crate) fn get(&self, key: &[u8; 32]) -> Vec<u8> {
        self.database.begin_read().unwrap().open_table(ANSWERS).unwrap().get(key).unwrap().unwrap().value().to_vec()
    }

    pub(crate) fn entries(&self) -> u64 {
        self.database.begin_read().unwrap().open_table(ANSWERS).unwrap().len().unwrap()
    }
}
