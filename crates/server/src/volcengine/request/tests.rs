use serde_json::json;

use super::*;

/// A minimal body with one more field, given by its path with slashes.
fn body_with(path: &str, value: Value) -> Map<String, Value> {
    let mut body = json!({
        "AppId": "app0123456789", "RoomId": "room1", "TaskId": "task1", "UserId": "webcast_1",
        "SourceURL": "https://a.example/b?c=d", "VideoSolutions": [{}], "MonitorConfig": {},
        "EventNotifyConfig": {},
    });
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = if parent.is_empty() { String::new() } else { format!("/{parent}") };
    body.pointer_mut(&parent).unwrap()[name] = value;
    body.as_object().unwrap().clone()
}

fn read(path: &str, value: Value) -> Result<Value, ApiError> {
    StartRequest::parse(&body_with(path, value)).map(|start| serde_json::to_value(start).unwrap())
}

fn expect_error(path: &str, value: &Value) -> ApiError {
    read(path, value.clone()).expect_err(&format!("{path} = {value}"))
}

#[test]
fn numbers_are_checked_and_have_defaults() {
    let (large, huge) = (json!(4_294_967_296_u64), json!(1e300));
    for (path, default, low, high) in [
        ("VideoSolutions/0/Width", 1280, 50, 1920),
        ("VideoSolutions/0/Height", 720, 50, 1080),
        ("VideoSolutions/0/FrameRate", 15, 1, 60),
        ("VideoSolutions/0/Bitrate", 0, 0, 10_000),
        ("MaxRunningTime", 86_400, 10, 86_400),
        ("MonitorConfig/FreezeCheckInterval", 0, 2, 30),
        ("MonitorConfig/BlankCheckInterval", 0, 2, 30),
        ("MonitorConfig/CrashCheckInterval", 0, 0, 30),
        ("EventNotifyConfig/StartTimeout", 0, 0, 60),
    ] {
        let value_of =
            |given: Value| read(path, given).map(|echo| echo.pointer(&format!("/{path}")).cloned());
        let absent = StartRequest::parse(&body_with("X", json!("unknown fields are ignored"))).unwrap();
        let absent = serde_json::to_value(absent).unwrap();
        assert_eq!(absent.pointer(&format!("/{path}")), Some(&json!(default)), "{path}, absent");
        for (given, expected) in
            [(Value::Null, default), (json!(default), default), (json!(low), low), (json!(high), high)]
        {
            assert_eq!(value_of(given.clone()), Ok(Some(json!(expected))), "{path} = {given}");
        }
        // Clients that serialise unset integers send 0, and some write integers as doubles.
        for given in [json!(0), json!(0.0), json!(-0.0), json!(f64::from(default))] {
            assert_eq!(value_of(given.clone()), Ok(Some(json!(default))), "{path} = {given}");
        }
        let name = path.replace("/0/", "[0].").replace('/', ".");
        let numbers =
            [json!(low - 1), json!(high + 1), json!(-1), large.clone(), huge.clone(), json!(i64::MIN)];
        let doubles = [json!(f64::from(high) + 1.0), json!(-5.0)];
        for given in numbers.into_iter().chain(doubles).filter(|given| *given != json!(0)) {
            let ApiError { code, message, .. } = expect_error(path, &given);
            let expected = if default == 0 && low > 0 {
                format!("{name} is {given}: it must be 0, or {low} to {high}")
            } else {
                format!("{name} is {given}: it must be {low} to {high}")
            };
            assert_eq!((code, message), (ErrorCode::InvalidParameter, expected));
        }
        for (given, kind) in [
            (json!("30"), "a string"),
            (json!(true), "a boolean"),
            (json!([30]), "an array"),
            (json!({}), "an object"),
            (json!(20.5), "20.5"),
        ] {
            let ApiError { code, message, .. } = expect_error(path, &given);
            assert_eq!(
                (code, message),
                (ErrorCode::InvalidParameter, format!("{name} must be an integer, it is {kind}"))
            );
        }
    }
}

#[test]
fn odd_sizes_are_rounded_down() {
    for (given, expected) in [(51, 50), (1279, 1278), (1280, 1280), (1079, 1078)] {
        for side in ["Width", "Height"] {
            if side == "Width" || given <= 1080 {
                let echo = read(&format!("VideoSolutions/0/{side}"), json!(given)).unwrap();
                assert_eq!(echo["VideoSolutions"][0][side], expected);
            }
        }
    }
}

#[test]
fn identifiers_are_checked() {
    for (name, malformed, required) in [
        ("AppId", ErrorCode::IllegalAppId, true),
        ("RoomId", ErrorCode::IllegalRoomId, true),
        ("TaskId", ErrorCode::InvalidParameter, true),
        ("UserId", ErrorCode::InvalidParameter, true),
        ("BusinessId", ErrorCode::InvalidParameter, false),
    ] {
        for good in ["a", "azAZ09_@-.", &"a".repeat(128)] {
            assert_eq!(read(name, json!(good)).unwrap()[name], good);
        }
        for bad in ["a b", "a/b", "ä", "页", "a\n", &"a".repeat(129), &"页".repeat(100_000)] {
            let ApiError { code, message, .. } = expect_error(name, &json!(bad));
            assert_eq!(code, malformed, "{name}");
            let count = format!("with {} characters: it must have 1 to 128 letters", bad.chars().count());
            assert!(message.starts_with(&format!("{name} is \"")) && message.contains(&count), "{message}");
            assert!(message.len() < 500, "{message}");
        }
        for (given, kind) in [(json!(1), "a number"), (json!(["a"]), "an array"), (json!(false), "a boolean")]
        {
            let ApiError { code, message, .. } = expect_error(name, &given);
            assert_eq!(
                (code, message),
                (ErrorCode::InvalidParameter, format!("{name} must be a string, it is {kind}"))
            );
        }
        if required {
            let missing = ApiError::new(ErrorCode::InvalidParameter, format!("{name} is missing"));
            assert_eq!(expect_error(name, &Value::Null), missing);
            let mut without = body_with("X", Value::Null);
            without.remove(name);
            assert_eq!(StartRequest::parse(&without), Err(missing));
            assert_eq!(expect_error(name, &json!("")).code, malformed);
        } else {
            for nothing in [Value::Null, json!("")] {
                assert_eq!(read(name, nothing).unwrap().get(name), None);
            }
        }
    }
}

#[test]
fn source_urls_are_checked() {
    let long = |chars: usize, of: &str| format!("https://a.example/{}", of.repeat(chars - 18));
    for good in
        ["http://a.example", "https://u:p@a.example:8443/b?c=d#e", &long(1024, "a"), &long(1024, "𠀀")]
    {
        assert_eq!(read("SourceURL", json!(good)).unwrap()["SourceURL"], good, "the URL is unchanged");
        let start = StartRequest::parse(&body_with("SourceURL", json!(good))).unwrap();
        let page = start.page_url().unwrap();
        assert_eq!(SourceUrl::parse(page.reveal()), Ok(page), "the URL can be parsed again");
        assert!(!format!("{start:?}").contains("a.example"));
    }
    for (bad, text) in [
        (json!(long(1025, "a")), "SourceURL has 1025 characters: it must have 1 to 1024"),
        (json!(long(1025, "页")), "SourceURL has 1025 characters"),
        (json!(""), "SourceURL has 0 characters"),
        (Value::Null, "SourceURL is missing"),
        (json!(7), "SourceURL must be a string, it is a number"),
    ] {
        let ApiError { code, message, .. } = expect_error("SourceURL", &bad);
        assert!(code == ErrorCode::InvalidParameter && message.starts_with(text), "{message}");
    }
    for (bad, text) in [
        ("a.example/b?secret=1", "must be a URL like https://a.example/page: relative"),
        ("file:///etc/passwd", "cannot open a file: address"),
        ("javascript:alert(1)", "cannot open a javascript: address"),
        ("https://", "must be a URL like https://a.example/page: empty host"),
    ] {
        let ApiError { code, message, .. } =
            StartRequest::parse(&body_with("SourceURL", json!(bad))).unwrap().page_url().unwrap_err();
        assert!(code == ErrorCode::InvalidParameter && message.contains(text), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
}

#[test]
fn video_solutions_and_objects_are_checked() {
    let default = json!([{ "Width": 1280, "Height": 720, "FrameRate": 15, "Bitrate": 0 }]);
    for nothing in [Value::Null, json!([]), json!([{}]), json!([{ "Width": null }])] {
        assert_eq!(read("VideoSolutions", nothing).unwrap()["VideoSolutions"], default);
    }
    let two = read("VideoSolutions", json!([{ "Width": 640, "Height": 360 }, {}])).unwrap();
    assert_eq!(two["VideoSolutions"][0]["Width"], 640, "the order is kept");
    assert_eq!(two["VideoSolutions"][1], default[0]);
    let off = json!({ "FreezeCheckInterval": 0, "BlankCheckInterval": 0, "CrashCheckInterval": 0 });
    assert_eq!(read("MonitorConfig", Value::Null).unwrap()["MonitorConfig"], off);
    let off = json!({ "EnableEventNotify": false, "StartTimeout": 0 });
    assert_eq!(read("EventNotifyConfig", Value::Null).unwrap()["EventNotifyConfig"], off);
    for flag in [true, false] {
        let echo = read("EventNotifyConfig/EnableEventNotify", json!(flag)).unwrap();
        assert_eq!(echo["EventNotifyConfig"]["EnableEventNotify"], flag);
    }
    for (path, bad, text) in [
        ("VideoSolutions", json!([{}, {}, {}]), "VideoSolutions has 3 items: it must have 1 to 2"),
        ("VideoSolutions", json!({}), "VideoSolutions must be an array, it is an object"),
        ("VideoSolutions", json!([null]), "VideoSolutions[0] must be an object, it is null"),
        ("VideoSolutions", json!([{}, 7]), "VideoSolutions[1] must be an object, it is a number"),
        (
            "VideoSolutions",
            json!([{}, { "Width": 7 }]),
            "VideoSolutions[1].Width is 7: it must be 50 to 1920",
        ),
        ("MonitorConfig", json!([]), "MonitorConfig must be an object, it is an array"),
        ("EventNotifyConfig", json!("on"), "EventNotifyConfig must be an object, it is a string"),
        (
            "EventNotifyConfig/EnableEventNotify",
            json!("true"),
            "EventNotifyConfig.EnableEventNotify must be true or false, it is a string",
        ),
        (
            "EventNotifyConfig/EnableEventNotify",
            json!(1),
            "EventNotifyConfig.EnableEventNotify must be true or false, it is a number",
        ),
    ] {
        assert_eq!(expect_error(path, &bad), ApiError::new(ErrorCode::InvalidParameter, text));
    }
}

#[test]
fn bodies_are_parsed_as_json_objects() {
    let deep = format!("{{\"AppId\":{}", "[".repeat(60_000));
    for (bytes, code) in [
        (&b""[..], ErrorCode::BodyIsEmpty),
        (b" \r\n\t", ErrorCode::BodyIsEmpty),
        (b"{", ErrorCode::Unmarshal),
        (b"[]", ErrorCode::Unmarshal),
        (b"null", ErrorCode::Unmarshal),
        (b"\"{}\"", ErrorCode::Unmarshal),
        (b"{} {}", ErrorCode::Unmarshal),
        (b"{\"AppId\":1e999}", ErrorCode::Unmarshal),
        (b"{\"AppId\":\"\xff\"}", ErrorCode::Unmarshal),
        (b"AppId=a&RoomId=b", ErrorCode::Unmarshal),
        (deep.as_bytes(), ErrorCode::Unmarshal),
    ] {
        assert_eq!(parse_body(bytes).unwrap_err().code, code);
    }
    let escaped = parse_body(
        br#"{"AppId":"a","AppId":"b","SourceURL":"https:\/\/a.example\/?a=1\u0026b=\u9875","appid":"c"}"#,
    );
    let escaped = escaped.unwrap();
    assert_eq!(
        (&escaped["AppId"], &escaped["SourceURL"]),
        (&json!("b"), &json!("https://a.example/?a=1&b=页"))
    );
    assert!(StartRequest::parse(&escaped).is_err(), "names are case-sensitive");
}

#[test]
fn the_first_of_equal_query_parameters_counts() {
    let item = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let items = [item("AppId", "a"), item("RoomId", "r"), item("TaskId", "t"), item("AppId", "b")];
    let task = TaskRef::parse(&query_fields(&items)).unwrap();
    assert_eq!((task.app_id.as_str(), task.room_id.as_str(), task.task_id.as_str()), ("a", "r", "t"));
    assert_eq!(TaskRef::parse(&query_fields(&items[..2])).unwrap_err().message, "TaskId is missing");
}

proptest::proptest! {
    #[test]
    fn nothing_from_outside_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
    text in "[\\[\\]{}:,\"0-9a-zA-Z.e+-]{0,100}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            if let Ok(fields) = parse_body(bytes) {
                assert!(StartRequest::parse(&fields).is_err());
            }
        }
    }
}
