use std::collections::BTreeMap;

use crate::{Batch, Committed, Durability, KeyRange, Keyspace, Limits, Op, Scan, Store, StoreError};

/// What a copy carried over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Items of each keyspace that had any.
    pub items: BTreeMap<Keyspace, u64>,
    /// Bytes of all keys and values.
    pub bytes: u64,
}

/// Copies all keyspaces of one store into an empty one, page by page; durable on return.
///
/// The source may serve reads meanwhile; if it takes commits, the copy shows each page at another moment, so a copy that is to
/// be exact has to stop them. `Meta` is copied last, after all else is durable: a target without `Meta` is an unfinished copy.
///
/// # Errors
/// `NotEmpty` if the target is not empty, then nothing was written; the errors of both stores.
pub async fn copy(source: &dyn Store, target: &dyn Store) -> Result<CopyReport, StoreError> {
    copy_with_progress(source, target, |_| {}).await
}

/// Copies as [`copy`] does, and calls `progress` with what was carried over so far, after each page.
///
/// # Errors
/// Those of [`copy`].
pub async fn copy_with_progress(
    source: &dyn Store,
    target: &dyn Store,
    mut progress: impl FnMut(&CopyReport),
) -> Result<CopyReport, StoreError> {
    for keyspace in Keyspace::ALL {
        if !target.scan(Scan::new(*keyspace, KeyRange::all()).items(1)).await?.items.is_empty() {
            return Err(StoreError::NotEmpty { keyspace: *keyspace });
        }
    }
    let mut report = CopyReport::default();
    for keyspace in Keyspace::ALL.iter().filter(|keyspace| **keyspace != Keyspace::Meta) {
        copy_keyspace(source, target, *keyspace, &mut report, &mut progress).await?;
    }
    target.flush().await?;
    copy_keyspace(source, target, Keyspace::Meta, &mut report, &mut progress).await?;
    target.flush().await?;
    Ok(report)
}

async fn copy_keyspace(
    source: &dyn Store,
    target: &dyn Store,
    keyspace: Keyspace,
    report: &mut CopyReport,
    progress: &mut impl FnMut(&CopyReport),
) -> Result<(), StoreError> {
    let mut next = Some(Scan { limits: COPY_LIMITS, ..Scan::new(keyspace, KeyRange::all()) });
    while let Some(scan) = next.take() {
        let page = source.scan(scan.clone()).await?;
        let mut batch = Batch::new();
        batch.durability(Durability::Relaxed);
        for (key, value) in page.items {
            *report.items.entry(keyspace).or_default() += 1;
            report.bytes = report.bytes.saturating_add((key.len() + value.len()) as u64);
            batch.push(Op::Put { keyspace, key, value });
        }
        if !batch.is_empty() {
            match target.commit(batch).await? {
                Committed::Written => {}
                Committed::Refused(_) => unreachable!("a batch without guards is never refused"),
            }
        }
        progress(report);
        next = page.next.map(|cursor| scan.after(&cursor));
    }
    Ok(())
}

const COPY_LIMITS: Limits = Limits { items: 8192, bytes: 4 * 1024 * 1024 };
