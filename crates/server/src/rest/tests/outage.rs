use std::time::Instant;

use super::*;
use crate::internal_error::FLEET_TIME_LIMIT;
use crate::outage::OutageFleet;

#[tokio::test]
async fn requests_wait_shortly_for_a_database_and_can_be_repeated() {
    let database = OutageFleet::start().await;
    let server = TestServer::build(&json!({}), Some(database.fleet.clone())).await;
    let create = async || {
        let request = request("POST", "/v1/casts", TOKEN_ONE).header("content-type", "application/json");
        let body = Body::from(r#"{"url": "http://a.example/", "recording": {}}"#);
        server.send(request.header("idempotency-key", "k").body(body).unwrap()).await
    };
    database.proxy.go_down_after_commit();
    for _ in 0..2 {
        let began = Instant::now();
        let refused = create().await;
        refused.expect_error(503, "unavailable", "-");
        assert_eq!(refused.header("retry-after"), "1");
        assert!(began.elapsed() < 2 * FLEET_TIME_LIMIT, "{:?}", began.elapsed());
    }
    database.proxy.set_down(false);
    let repeated = create().await;
    repeated.expect_status(200);
    assert_eq!(repeated.header("idempotent-replayed"), "true", "the first request had created the cast");
    let list = server.get(TOKEN_ONE, "/v1/casts").await.expect_status(200);
    assert_eq!(list["casts"].as_array().unwrap().len(), 1);
}
