//! Tests of storages, and pushes that are removed by their numbers.

use async_trait::async_trait;
use pagecast_core::connection::State;
use pagecast_core::spec::{PushUrl, Storage};
use pagecast_fleet::{Command, NodeInfo, Renewal};

use super::*;
use crate::{StorageTestStep, StorageTester};

/// Fails to read from buckets, and says where it tested.
#[derive(Debug)]
struct FakeTester;

#[async_trait]
impl StorageTester for FakeTester {
    async fn test(&self, storage: &Storage) -> Vec<StorageTestStep> {
        let step = |step, error: Option<&str>| StorageTestStep {
            step,
            error: error.map(str::to_owned),
            duration: Duration::from_millis(7),
        };
        match storage {
            Storage::Folder(path) if path.ends_with("recordings") => vec![step("write", None)],
            Storage::Bucket(bucket) if bucket.keys.is_some() => {
                vec![step("write", None), step("read", Some("access denied")), step("remove", None)]
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn storages_are_tested_with_their_keys() {
    let bucket =
        json!({"to": "s3://bucket?region=eu-1", "keys": {"access_key": "planted", "secret_key": "planted"}});
    let mut server = TestServer::with_config(json!({"applications": [
        {"name": "one", "tokens": [TOKEN_ONE], "storage": {"backup": bucket}},
        {"name": "two", "tokens": [TOKEN_TWO]},
    ]}))
    .await;
    server.service.storage_tester = Some(Arc::new(FakeTester));
    server.router = router_of(crate::rest::router(server.service.clone()));
    let path = "/v1/applications/one/storage/test";
    let default = server.post(TOKEN_ONE, path, &json!({"storage": "default"})).await.expect_status(200);
    let write = json!({"step": "write", "ok": true, "message": null, "duration_ms": 7});
    assert_eq!(default, json!({"ok": true, "steps": [write]}));
    let backup = server.post(ADMIN_TOKEN, path, &json!({"storage": "backup"})).await.expect_status(200);
    assert_eq!((&backup["ok"], &backup["steps"][1]["message"]), (&json!(false), &json!("access denied")));
    assert_no_secrets(&backup);
    let of_two = "/v1/applications/two/storage/test";
    server.post(TOKEN_TWO, of_two, &json!({"storage": "backup"})).await.expect_error(409, "no-storage", "-");
    server.post(TOKEN_TWO, path, &json!({"storage": "backup"})).await.expect_error(403, "forbidden", "-");
    let wrong = server.post(TOKEN_ONE, path, &json!({"storage": "other"})).await;
    wrong.expect_error(400, "invalid-parameter", "storage");
}

/// Sends the event of a push without its key.
async fn report_push(server: &TestServer, claim: &Claim, id: u32, url: &str, state: State) {
    let url = PushUrl::parse(url).unwrap().to_string();
    server.report(claim, EventKind::Push { id, url, state, error: None }).await;
}

/// Addresses of the pushes that the worker was told to remove.
async fn removed(server: &TestServer, claim: &Claim) -> Vec<String> {
    let renewed = server.service.fleet.renew_all(std::slice::from_ref(&claim.ticket), LEASE).await.unwrap();
    let [Renewal::Renewed { commands }] = &renewed[..] else { panic!("{renewed:?}") };
    let url = |(_, command): &(u64, Command)| match command {
        Command::RemovePush(url) => url.reveal().to_owned(),
        other => panic!("{other:?}"),
    };
    commands.iter().map(url).collect()
}

#[tokio::test]
async fn a_push_is_removed_by_its_number() {
    const URLS: [&str; 4] = [
        "rtmp://a.example/app/one",
        "rtmp://a.example/app/two",
        "rtmp://b.example/app/three",
        "rtmp://a.example/app/four",
    ];
    let server = TestServer::new().await;
    let pushes: Vec<_> = URLS[..3].iter().map(|url| json!({"url": url})).collect();
    let id = server.create_cast_as(TOKEN_ONE, &json!({"url": "http://a.example/", "pushes": pushes})).await;
    let remove = async |token: &str, number: &str| {
        let path = format!("/v1/casts/{id}/pushes/{number}");
        server.send(request("DELETE", &path, token).body(Body::empty()).unwrap()).await
    };
    // Before there are events, the numbers follow the description.
    remove(TOKEN_ONE, "4").await.expect_error(404, "no-such-push", "-");
    remove(TOKEN_ONE, "0").await.expect_error(404, "no-such-push", "-");
    remove(TOKEN_ONE, "x").await.expect_error(404, "no-such-push", "-");
    remove(TOKEN_TWO, "1").await.expect_error(404, "no-such-cast", "-");
    let shown = remove(TOKEN_ONE, "3").await.expect_status(202);
    assert_eq!(shown["id"], id.as_str());
    let claim = server.claim().await;
    assert_eq!(removed(&server, &claim).await, [URLS[2]]);
    for (n, url) in (1..).zip(&URLS[..3]) {
        report_push(&server, &claim, n, url, State::Running).await;
    }
    // The worker removed the first one, and added a fourth one of the same look.
    report_push(&server, &claim, 1, URLS[0], State::Idle).await;
    report_push(&server, &claim, 4, URLS[3], State::Running).await;
    let push =
        |url: &str| pagecast_core::spec::Push { url: PushUrl::parse(url).unwrap(), reconnect_timeout: None };
    let left = URLS[1..].iter().map(|url| push(url)).collect();
    server.service.fleet.put_pushes(&claim.ticket, left).await.unwrap();
    remove(TOKEN_ONE, "1").await.expect_error(404, "no-such-push", "-");
    remove(ADMIN_TOKEN, "4").await.expect_status(202);
    remove(TOKEN_ONE, "2").await.expect_status(202);
    assert_eq!(removed(&server, &claim).await, [URLS[2], URLS[3], URLS[1]]);
    // Another process numbers what is left anew.
    server.service.fleet.release(&claim.ticket).await.unwrap();
    let worker = WorkerId("v".to_owned());
    let claimed = server.service.fleet.claim(&worker, &NodeInfo::default(), LEASE, &|_| true).await.unwrap();
    let claim = claimed.unwrap();
    remove(TOKEN_ONE, "1").await.expect_status(202);
    assert_eq!(removed(&server, &claim).await.last().unwrap(), URLS[1]);
    let ended =
        EventKind::Ended { reason: pagecast_core::cast::EndReason::Stopped, message: None, cause: None };
    server.report(&claim, ended).await;
    remove(TOKEN_ONE, "1").await.expect_error(409, "cast-ended", "-");
}
