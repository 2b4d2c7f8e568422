use super::*;

const HOUR_MS: UnixMs = 3_600_000;

#[tokio::test]
async fn use_is_listed_by_day_and_application() {
    let server = TestServer::new().await;
    let body = json!({"url": "http://a.example/", "recording": {}});
    // 17:00: one cast of `two` for an hour and a half, and one of `one` over midnight.
    for (token, hours, report) in [
        (TOKEN_TWO, 1.5, json!({"cpu_ms": {"total": 5_400_000}, "bytes": 1000})),
        (TOKEN_ONE, 8.0, json!({"cpu_ms": {"total": 7_200_000}, "bytes": 800})),
    ] {
        server.create_cast_as(token, &body).await;
        let claim = server.claim().await;
        server.advance_clock((hours * HOUR_MS as f64) as UnixMs);
        let ended = EventKind::Ended {
            reason: pagecast_core::cast::EndReason::PageEnded,
            message: None,
            cause: None,
        };
        server.service.fleet.close(&claim.ticket, Some(ended), Some(report)).await.unwrap();
    }
    let all = server.get(ADMIN_TOKEN, "/v1/use").await.expect_status(200);
    let day = |day: &str, app: &str, casts: u32, hours: (f64, f64), bytes: u64| {
        let (cast_hours, core_hours) = hours;
        json!({"day": day, "app": app, "casts": casts, "cast_hours": cast_hours, "core_hours": core_hours,
            "bytes": bytes})
    };
    let two = day("2026-11-21", "two", 1, (1.5, 1.5), 1000);
    let one =
        [day("2026-11-21", "one", 1, (5.5, 1.375), 550), day("2026-11-22", "one", 0, (2.5, 0.625), 250)];
    assert_eq!(all["days"], json!([one[0], two, one[1]]));
    let query = "/v1/use?from=2026-11-01&to=2026-11-30";
    assert_eq!(server.get(TOKEN_ONE, query).await.expect_status(200)["days"], json!(one), "only its own");
    assert_eq!(server.get(TOKEN_TWO, query).await.expect_status(200)["days"], json!([two]));
    let of_two = server.get(ADMIN_TOKEN, &format!("{query}&app=two")).await.expect_status(200);
    assert_eq!(of_two["days"], json!([two]));
    let one_day = server.get(ADMIN_TOKEN, "/v1/use?from=2026-11-22&to=2026-11-22").await.expect_status(200);
    assert_eq!(one_day["days"], json!([one[1]]));
    let other = server.get(TOKEN_ONE, "/v1/use?app=two").await;
    other.expect_error(403, "forbidden", "app");

    let csv = server.get(TOKEN_ONE, "/v1/use?from=2026-11-01&to=2026-11-30&format=csv").await;
    assert_eq!(csv.status, 200);
    assert!(csv.header("content-type").starts_with("text/csv;"));
    assert_eq!(csv.header("content-disposition"), "attachment; filename=\"use-2026-11-01-2026-11-30.csv\"");
    assert_eq!(
        String::from_utf8(csv.body).unwrap(),
        "day,app,casts,cast_hours,core_hours,bytes\r\n2026-11-21,one,1,5.5,1.375,550\r\n\
         2026-11-22,one,0,2.5,0.625,250\r\n"
    );
    let accepts = request("GET", "/v1/use", TOKEN_ONE).header("accept", "text/csv");
    let csv = server.send(accepts.body(Body::empty()).unwrap()).await;
    assert!(csv.header("content-type").starts_with("text/csv;"));
}

#[tokio::test]
async fn wrong_days_are_refused() {
    let server = TestServer::new().await;
    for (query, field) in [
        ("from=2026-11-1", "from"),
        ("from=yesterday", "from"),
        ("to=2026-13-01", "to"),
        ("from=1969-12-31", "from"),
        ("from=2026-11-22&to=2026-11-21", "from"),
        ("from=2025-11-21&to=2026-11-22", "from"),
        ("to=2026-11-21T00:00:00Z", "to"),
        ("app=A%00", "app"),
        ("format=xml", "format"),
        ("days=3", "days"),
    ] {
        let refused = server.get(ADMIN_TOKEN, &format!("/v1/use?{query}")).await;
        refused.expect_error(400, "invalid-parameter", field);
    }
    server.get(ADMIN_TOKEN, "/v1/use?from=2025-11-21&to=2026-11-21").await.expect_status(200);
    server.get(ADMIN_TOKEN, "/v1/use?from=9999-01-01&to=9999-12-31").await.expect_status(200);
    server.get("", "/v1/use").await.expect_error(401, "unauthorized", "-");
}
