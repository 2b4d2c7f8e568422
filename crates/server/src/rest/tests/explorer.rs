use super::*;

const SECRET_ONE: &str = "planted-secret-one";
const SECRET_TWO: &str = "planted-secret-two";

/// A service whose applications have keys for both vendors' APIs.
async fn server() -> TestServer {
    TestServer::with_config(json!({
        "applications": [
            {
                "name": "one", "tokens": [TOKEN_ONE], "app_id": "app-one", "sdk_app_id": 1_400_000_001,
                "keys": [
                    {"id": "AKold", "secret": "planted-old", "disabled": true},
                    {"id": "AKone", "secret": SECRET_ONE},
                ],
            },
            {
                "name": "two", "tokens": [TOKEN_TWO], "app_id": "app-two",
                "keys": [{"id": "AKtwo", "secret": SECRET_TWO}],
            },
        ],
    }))
    .await
}

impl TestServer {
    async fn call_action(&self, token: &str, body: &Value) -> TestResponse {
        let request = request("POST", "/v1/explorer/call", token)
            .header("content-type", "application/json")
            .header("host", "127.0.0.1:8080");
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    /// Makes a call of the application `one` and returns the body of the answer.
    async fn answer_to(&self, action: &str, parameters: Value) -> Value {
        let body = json!({"action": action, "parameters": parameters, "send": true});
        let call = self.call_action(TOKEN_ONE, &body).await.expect_status(200);
        assert_no_secrets(&call);
        let kind = call["response"]["headers"]["content-type"].as_str().unwrap();
        assert!(kind.starts_with("application/json"), "{kind}");
        serde_json::from_str(call["response"]["body"].as_str().unwrap()).unwrap()
    }

    async fn explain(&self, token: &str, text: &str) -> Value {
        let explained = self.post(token, "/v1/explorer/explain", &json!({"request": text})).await;
        let explained = explained.expect_status(200);
        assert_no_secrets(&explained);
        explained
    }
}

/// A signed request as text, as it would be sent.
fn raw_text(call: &Value) -> String {
    let request = &call["request"];
    let url = request["url"].as_str().unwrap();
    let mut text = format!("{} {} HTTP/1.1\r\n", request["method"].as_str().unwrap(), &url[21..]);
    for (name, value) in request["headers"].as_object().unwrap() {
        text += &format!("{name}: {}\r\n", value.as_str().unwrap());
    }
    text + "\r\n" + request["body"].as_str().unwrap()
}

fn record_parameters() -> Value {
    let storage = json!({
        "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "talks-125", "AccessKey": "ak", "SecretKey": "sk",
    });
    json!({
        "SdkAppId": 1_400_000_001, "RecordUrl": "https://example.com/?a=b c", "RecordId": "r1",
        "StorageParams": {"CloudStorage": storage}, "PublishCdnParams": [],
    })
}

#[tokio::test]
async fn actions_and_own_keys_are_described() {
    let server = server().await;
    let explorer = server.get(TOKEN_ONE, "/v1/explorer").await.expect_status(200);
    assert_no_secrets(&explorer);
    let actions = explorer["actions"].as_array().unwrap();
    let names: Vec<_> = actions.iter().map(|action| action["action"].as_str().unwrap()).collect();
    let expected = [
        "StartWebcast",
        "StopWebcast",
        "GetWebCastTask",
        "StartWebRecord",
        "StopWebRecord",
        "DescribeWebRecord",
    ];
    assert_eq!(names, expected);
    let parameters = actions[0]["parameters"].as_array().unwrap();
    let solutions = parameters.iter().find(|parameter| parameter["name"] == "VideoSolutions").unwrap();
    assert_eq!((&solutions["type"], &solutions["maximum"]), (&json!("array"), &json!(2)));
    let rate = &solutions["parameters"][2];
    assert_eq!(rate["name"], "FrameRate");
    assert_eq!([&rate["minimum"], &rate["maximum"], &rate["default"]], [1, 60, 15]);
    assert_eq!(explorer["keys"], json!([{"app": "one", "id": "AKone"}]));
    let all = server.get(ADMIN_TOKEN, "/v1/explorer").await.expect_status(200);
    assert_eq!(all["keys"], json!([{"app": "one", "id": "AKone"}, {"app": "two", "id": "AKtwo"}]));
}

#[tokio::test]
async fn calls_are_answered_as_from_outside() {
    let server = server().await;
    let task = json!({"AppId": "app-one", "RoomId": "r", "TaskId": "t"});
    let mut start = task.clone();
    start["UserId"] = "webcast_1".into();
    start["SourceURL"] = "https://example.com/".into();
    start["VideoSolutions"] = json!([{"Width": 640, "Height": 360}]);
    assert_eq!(server.answer_to("StartWebcast", start.clone()).await["Result"], "ok");
    let found = server.answer_to("GetWebCastTask", task.clone()).await;
    assert_eq!(found["Result"]["WebCastTask"]["VideoSolutions"][0]["Width"], 640, "{found}");
    assert_eq!(server.answer_to("StopWebcast", task).await["Result"], "ok");
    start["VideoSolutions"] = json!([{"Width": 1}]);
    let wrong = server.answer_to("StartWebcast", start).await;
    assert_eq!(wrong["ResponseMetadata"]["Error"]["Code"], "InvalidParameter", "{wrong}");

    let started = server.answer_to("StartWebRecord", record_parameters()).await;
    let id = started["Response"]["TaskId"].as_str().unwrap_or_else(|| panic!("{started}")).to_owned();
    let found = server.answer_to("DescribeWebRecord", json!({"TaskId": id})).await;
    assert_eq!(found["Response"]["RecordId"], "r1", "{found}");
    let stopped = server.answer_to("StopWebRecord", json!({"TaskId": id})).await;
    assert!(stopped["Response"]["Error"].is_null(), "{stopped}");
}

#[tokio::test]
async fn calls_are_only_signed_unless_they_are_sent() {
    let server = server().await;
    let body = json!({"action": "StartWebRecord", "parameters": record_parameters()});
    let call = server.call_action(TOKEN_ONE, &body).await.expect_status(200);
    assert_no_secrets(&call);
    assert!(call["response"].is_null());
    assert_eq!(call["request"]["url"], "http://127.0.0.1:8080/");
    assert_eq!(call["request"]["headers"]["Authorization"], call["authorization"]);
    assert!(call["canonical_request"].as_str().unwrap().contains("host:127.0.0.1:8080"));
    assert!(call["string_to_sign"].as_str().unwrap().starts_with("TC3-HMAC-SHA256\n1795280400\n"));
    for language in ["python", "node", "go", "java", "cli"] {
        assert!(call["code"][language].as_str().unwrap().contains("talks-125"), "{language}");
    }
    let casts = server.get(TOKEN_ONE, "/v1/casts").await.expect_status(200);
    assert_eq!(casts["casts"], json!([]));
}

#[tokio::test]
async fn calls_need_a_key_of_an_own_application() {
    let server = server().await;
    let call = |more: Value| {
        let mut body = json!({"action": "StopWebcast"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (token, more, status, code, field) in [
        (TOKEN_ONE, json!({"app": "two"}), 403, "forbidden", "app"),
        (TOKEN_ONE, json!({"key": "AKtwo"}), 404, "no-such-key", "key"),
        (TOKEN_ONE, json!({"key": "AKold"}), 400, "invalid-parameter", "key"),
        (TOKEN_ONE, json!({"action": "ListRooms"}), 400, "invalid-parameter", "action"),
        (TOKEN_ONE, json!({"parameters": []}), 400, "invalid-parameter", "parameters"),
        (TOKEN_ONE, json!({"parameters": {"a": "x".repeat(65_536)}}), 400, "invalid-parameter", "parameters"),
        (
            TOKEN_ONE,
            json!({"action": "GetWebCastTask", "parameters": {"a": "x".repeat(20_000)}}),
            400,
            "invalid-parameter",
            "parameters",
        ),
        (ADMIN_TOKEN, json!({}), 400, "invalid-parameter", "app"),
        (ADMIN_TOKEN, json!({"app": "three"}), 400, "invalid-parameter", "app"),
        ("unknown-token-0123456789", json!({}), 401, "unauthorized", "-"),
    ] {
        server.call_action(token, &call(more)).await.expect_error(status, code, field);
    }
    server.call_action(ADMIN_TOKEN, &call(json!({"app": "two", "key": "AKtwo"}))).await.expect_status(200);
}

#[tokio::test]
async fn requests_are_explained() {
    let server = server().await;
    let parameters = json!({"AppId": "app-one", "RoomId": "r", "TaskId": "t"});
    let mut texts = Vec::new();
    for action in ["StopWebcast", "GetWebCastTask", "StopWebRecord"] {
        let parameters = if action == "StopWebRecord" { json!({"TaskId": "x"}) } else { parameters.clone() };
        let body = json!({"action": action, "parameters": parameters});
        let call = server.call_action(TOKEN_ONE, &body).await.expect_status(200);
        let text = raw_text(&call);
        for token in [TOKEN_ONE, ADMIN_TOKEN] {
            let explained = server.explain(token, &text).await;
            assert_eq!(explained["verdict"], "accepted", "{explained}");
            let server_texts = &explained["server"];
            assert_eq!(server_texts["canonical_request"], call["canonical_request"]);
            assert_eq!(server_texts["string_to_sign"], call["string_to_sign"]);
        }
        texts.push(text);
    }
    let [stop, get, record] = &texts[..] else { panic!("three texts") };
    for (text, verdict) in [
        (stop.replace("/?Action", "/api?Action"), "path"),
        (stop.replace("app-one", "app-two"), "body"),
        (stop.replace("Action=Stop", "Action=Start"), "signature"),
        (stop.replace("POST /", "PUT /"), "method"),
        (stop.replace("Signature=", "Signature=0"), "signature"),
        (get.replace("TaskId=t", "TaskId="), "signature"),
        (record.replace("\"x\"", "\"y\""), "signature"),
        (record.replace("2019-07-22", "2020-07-22"), "action"),
        (record.replace("X-TC-Timestamp: 1", "X-TC-Timestamp: a"), "date"),
        (record.replace("Content-Type: application/json", "Content-Type: text/plain"), "signature"),
        (record.replace("Content-Type: application/json\r\n", ""), "headers"),
        (record.replace("AKone", "AKnone"), "key"),
        (record.replace("AKone", "AKold"), "key"),
        ("GET /v1/casts HTTP/1.1\nHost: a\n\n".to_owned(), "api"),
    ] {
        let explained = server.explain(TOKEN_ONE, &text).await;
        assert_eq!(explained["verdict"], verdict, "{text}: {explained}");
    }
    let charset = record.replace("application/json", "application/json; charset=utf-8");
    let message = server.explain(TOKEN_ONE, &charset).await["message"].clone();
    assert!(message.as_str().unwrap().contains("another Content-Type"), "{message}");
    server.advance_clock(3_700_000);
    for text in &texts {
        let late = server.explain(TOKEN_ONE, text).await;
        assert_eq!(late["verdict"], "clock", "{late}");
    }
    let no_request = server.post(TOKEN_ONE, "/v1/explorer/explain", &json!({"request": "curl -X"})).await;
    no_request.expect_error(400, "invalid-parameter", "request");
}

#[tokio::test]
async fn an_explanation_says_nothing_about_foreign_keys() {
    let server = server().await;
    for (action, parameters) in [
        ("StopWebcast", json!({"AppId": "app-one", "RoomId": "r", "TaskId": "t"})),
        ("StopWebRecord", json!({"TaskId": "x"})),
    ] {
        let body = json!({"action": action, "parameters": parameters});
        let call = server.call_action(TOKEN_ONE, &body).await.expect_status(200);
        let text = raw_text(&call);
        let foreign = server.explain(TOKEN_TWO, &text).await;
        let missing = server.explain(TOKEN_TWO, &text.replace("AKone", "AKxxx")).await;
        assert_eq!(foreign, missing, "a foreign key looks like a missing one");
        assert_eq!((&foreign["verdict"], &foreign["server"]), (&json!("key"), &Value::Null));
        // A wrong signature does not reveal the right one.
        let (_, signature) = text.split_once("Signature=").unwrap();
        let forged = text.replace(&signature[..64], &"0".repeat(64));
        let explained = server.explain(TOKEN_ONE, &forged).await;
        assert_eq!(explained["verdict"], "signature");
        assert!(!explained.to_string().contains(&signature[..16]), "{explained}");
    }
}
