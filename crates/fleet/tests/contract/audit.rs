//! Requests are recorded.

use std::time::Duration;

use pagecast_fleet::{AuditEntry, AuditFilter, AuditRole, Fleet, MAX_AUDIT_APPEND, MAX_AUDIT_ENTRIES};

use super::fixture::*;

/// An entry of the administrator, or of an application.
fn entry<B: Backend>(backend: &B, app: Option<&str>, request_id: &str) -> AuditEntry {
    AuditEntry {
        id: 0,
        at_ms: backend.now(),
        role: app.map_or(AuditRole::Administrator, |_| AuditRole::Application),
        app: app.map(str::to_owned),
        actor: "token 0123456789ab".to_owned(),
        via: "api".to_owned(),
        address: Some("192.0.2.1".to_owned()),
        action: "stopCast".to_owned(),
        target: Some("/v1/casts/1/stop".to_owned()),
        status: 202,
        request_id: request_id.to_owned(),
        count: 1,
    }
}

/// Request ids of a page, and whether another one follows.
async fn page(
    fleet: &dyn Fleet,
    app: Option<&str>,
    after: Option<u64>,
    limit: usize,
) -> (Vec<AuditEntry>, Vec<String>, bool) {
    let filter = AuditFilter { app: app.map(str::to_owned), after, limit };
    let page = fleet.audit_entries(&filter).await.unwrap();
    let ids = page.entries.iter().map(|entry| entry.request_id.clone()).collect();
    (page.entries, ids, page.has_more)
}

pub(crate) async fn entries_are_kept_and_read_page_by_page<B: Backend>() {
    let mut backend = B::new().await;
    let fleet = backend.fleet();
    fleet.append_audit(Vec::new()).await.unwrap();
    assert_eq!(page(&*fleet, None, None, 10).await, (vec![], vec![], false));
    let apps = [Some("a"), None, Some("b"), Some("a"), None];
    let new: Vec<_> = (0..5).zip(apps).map(|(n, app)| entry(&backend, app, &n.to_string())).collect();
    fleet.append_audit(new[..3].to_vec()).await.unwrap();
    fleet.append_audit(new[3..].to_vec()).await.unwrap();
    drop(fleet);
    backend.restart().await;
    let fleet = backend.fleet();
    let (all, ids, has_more) = page(&*fleet, None, None, 5).await;
    assert_eq!((ids.join(" ").as_str(), has_more), ("4 3 2 1 0", false));
    assert!(all.is_sorted_by(|a, b| a.id > b.id));
    for (stored, given) in all.iter().rev().zip(&new) {
        assert_eq!(&AuditEntry { id: 0, ..stored.clone() }, given);
    }
    let (first, ids, has_more) = page(&*fleet, None, None, 2).await;
    assert_eq!((ids.join(" ").as_str(), has_more), ("4 3", true));
    let (_, ids, has_more) = page(&*fleet, None, Some(first[1].id), 2).await;
    assert_eq!((ids.join(" ").as_str(), has_more), ("2 1", true));
    let (of_app, ids, has_more) = page(&*fleet, Some("a"), None, 1).await;
    assert_eq!((ids.join(" ").as_str(), has_more), ("3", true));
    let (_, ids, has_more) = page(&*fleet, Some("a"), Some(of_app[0].id), 1).await;
    assert_eq!((ids.join(" ").as_str(), has_more), ("0", false));
    assert!(page(&*fleet, Some("unknown"), None, 10).await.0.is_empty());
    assert_eq!(page(&*fleet, None, Some(u64::MAX), 10).await.1.len(), 5);
}

pub(crate) async fn each_application_keeps_its_newest_entries<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let administrators = entry(&backend, None, "administrator");
    let about_it = AuditEntry { app: Some("busy".to_owned()), ..administrators.clone() };
    fleet
        .append_audit(vec![administrators, about_it, entry(&backend, Some("quiet"), "quiet")])
        .await
        .unwrap();
    let max = usize::try_from(MAX_AUDIT_ENTRIES).unwrap();
    let mut appended = 0;
    while appended < max + 500 {
        let new =
            (appended..appended + MAX_AUDIT_APPEND).map(|n| entry(&backend, Some("busy"), &n.to_string()));
        fleet.append_audit(new.collect()).await.unwrap();
        appended += MAX_AUDIT_APPEND;
    }
    let (mut after, mut read, mut pages) = (None, Vec::new(), 0);
    loop {
        let (entries, _, has_more) = page(&*fleet, None, after, 1000).await;
        after = entries.last().map(|last| last.id);
        read.extend(entries);
        pages += 1;
        if !has_more {
            break;
        }
    }
    assert!(pages > 10);
    let busy =
        read.iter().filter(|entry| entry.role == AuditRole::Application && entry.request_id != "quiet");
    assert_eq!(busy.count(), max);
    assert_eq!(read[0].request_id, (appended - 1).to_string());
    let others: Vec<_> = read[max..].iter().map(|entry| entry.request_id.as_str()).collect();
    assert_eq!(others, ["quiet", "administrator", "administrator"], "nobody displaces entries of others");
}

pub(crate) async fn old_entries_are_deleted<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let old = (0..600).map(|n| entry(&backend, Some("a"), &format!("old {n}"))).collect();
    fleet.append_audit(old).await.unwrap();
    backend.advance(B::RETENTION / 2);
    fleet.append_audit(vec![entry(&backend, Some("a"), "young")]).await.unwrap();
    fleet.sweep().await.unwrap();
    assert_eq!(page(&*fleet, None, None, 1000).await.1.len(), 601, "none has expired");
    backend.advance(B::RETENTION / 2 + Duration::from_secs(1));
    fleet.sweep().await.unwrap();
    let (entries, ids, _) = page(&*fleet, None, None, 1000).await;
    assert_eq!(ids, ["young"]);
    // Numbers are not used again.
    let young = entries[0].id;
    backend.advance(B::RETENTION);
    fleet.sweep().await.unwrap();
    fleet.append_audit(vec![entry(&backend, None, "new")]).await.unwrap();
    assert!(page(&*fleet, None, None, 10).await.0[0].id > young);
}
