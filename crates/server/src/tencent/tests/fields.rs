//! Values of each field: absent, null, default, smallest, largest, out of range, of a wrong type.

use pagecast_core::spec::{
    Bucket, Device, Format, MAX_URL_LEN, Orientation, ReadySignal, Storage, StorageService,
};

use super::*;
use crate::app::VodKeys;

const ALL: [Encoding; 4] = [Encoding::Json, Encoding::Get, Encoding::FormV1, Encoding::GetV1];

const OUT_OF_RANGE: &str = "InvalidParameter.OutOfRange";
const INVALID: &str = "InvalidParameter";
const BAD_PUSH_URL: &str = "InvalidParameter.PublishCdnUrls";
/// No error: the recording starts.
const SUCCESS: &str = "";

/// Sends each value in each encoding that can express it, and checks the code of the response.
async fn check_codes(base: &Value, rows: &[(&str, Value, &str)]) {
    let fixture = Fixture::with(vec![application("demo", SDK_APP_ID), application("other", 7)], |_| {});
    for (path, value, expected) in rows {
        let params = with_value(base.clone(), path, Some(value.clone()));
        // Forms have no empty objects and lists, and all their values are text.
        let json_only = value.as_object().is_some_and(Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
            || *expected == INVALID;
        for encoding in ALL.into_iter().take(if json_only { 1 } else { 4 }) {
            let code = fixture.error_code(encoding, "StartWebRecord", &params).await;
            let value = value.to_string().chars().take(80).collect::<String>();
            assert_eq!(code, *expected, "{encoding:?} {path} = {value}");
        }
    }
}

#[tokio::test]
async fn missing_parameters_are_named() {
    let fixture = Fixture::with(vec![application("demo", SDK_APP_ID), application("other", 7)], |_| {});
    for (path, code) in [
        ("RecordUrl", "MissingParameter"),
        ("SdkAppId", "MissingParameter.SdkAppId"),
        ("StorageParams", "MissingParameter.StorageParams"),
        ("StorageParams.CloudStorage.Vendor", "MissingParameter.Vendor"),
        ("StorageParams.CloudStorage.Region", "MissingParameter.Region"),
        ("StorageParams.CloudStorage.Bucket", "MissingParameter.Bucket"),
        ("StorageParams.CloudStorage.AccessKey", "MissingParameter.AccessKey"),
        ("StorageParams.CloudStorage.SecretKey", "MissingParameter.SecretKey"),
    ] {
        for value in [None, Some(Value::Null)] {
            let params = with_value(minimal_params(), path, value);
            for encoding in ALL {
                let error = fixture.send(encoding, "StartWebRecord", &params).await.unwrap_err();
                assert_eq!(error.code, code, "{encoding:?}");
                assert!(error.message.contains(&format!("`{path}`")), "{}", error.message);
            }
        }
    }
    let empty = json!({ "StorageParams": {}, "RecordUrl": "http://a.example/", "SdkAppId": SDK_APP_ID });
    assert_eq!(
        fixture.error_code(Encoding::Json, "StartWebRecord", &empty).await,
        "MissingParameter.CloudStorage"
    );
    let vod = with_value(empty, "StorageParams.CloudVod", Some(json!({})));
    assert_eq!(fixture.error_code(Encoding::Json, "StartWebRecord", &vod).await, "MissingParameter");
}

#[tokio::test]
async fn the_fields_of_the_request() {
    let long = |n: usize| format!("https://example.com/{}", "a".repeat(n - 20));
    check_codes(
        &minimal_params(),
        &[
            ("RecordUrl", json!(long(1024)), SUCCESS),
            ("RecordUrl", json!(long(1025)), SUCCESS),
            ("RecordUrl", json!(long(MAX_URL_LEN)), SUCCESS),
            ("RecordUrl", json!(long(MAX_URL_LEN + 1)), INVALID),
            ("RecordUrl", json!("https://例え.example/テスト?q=测试"), SUCCESS),
            ("RecordUrl", json!("file:///etc/passwd"), INVALID),
            ("RecordUrl", json!("example.com"), INVALID),
            ("RecordUrl", json!(""), "MissingParameter"),
            ("RecordUrl", json!(7), INVALID),
            ("SdkAppId", json!(7), SUCCESS),
            ("SdkAppId", json!(0), "InvalidParameter.SdkAppId"),
            ("SdkAppId", json!(-1), "InvalidParameter.SdkAppId"),
            ("SdkAppId", json!(8), "FailedOperation.SdkAppIdNotUnderAppId"),
            ("SdkAppId", json!(u64::MAX), "FailedOperation.SdkAppIdNotUnderAppId"),
            ("SdkAppId", json!("1400000001"), INVALID),
            ("SdkAppId", json!(1.5), INVALID),
            ("MaxDurationLimit", Value::Null, SUCCESS),
            ("MaxDurationLimit", json!(1799), OUT_OF_RANGE),
            ("MaxDurationLimit", json!(1800), SUCCESS),
            ("MaxDurationLimit", json!(36_000), SUCCESS),
            ("MaxDurationLimit", json!(36_000.0), SUCCESS),
            ("MaxDurationLimit", json!(36_001), OUT_OF_RANGE),
            ("MaxDurationLimit", json!(86_400), OUT_OF_RANGE),
            ("MaxDurationLimit", json!(0), SUCCESS),
            ("MaxDurationLimit", json!(3600.5), INVALID),
            ("MaxDurationLimit", json!(-1), OUT_OF_RANGE),
            ("MaxDurationLimit", json!("3600"), INVALID),
            ("ReadyTimeout", Value::Null, SUCCESS),
            ("ReadyTimeout", json!(0), SUCCESS),
            ("ReadyTimeout", json!(60), SUCCESS),
            ("ReadyTimeout", json!(61), OUT_OF_RANGE),
            ("ReadyTimeout", json!(-1), OUT_OF_RANGE),
            ("ReadyTimeout", json!(0.5), INVALID),
            ("ReadyTimeout", json!([]), INVALID),
            ("RecordId", Value::Null, SUCCESS),
            ("RecordId", json!(""), SUCCESS),
            ("RecordId", json!("a".repeat(32)), "InvalidParameter.RecordId"),
            ("RecordId", json!("测".repeat(11)), "InvalidParameter.RecordId"),
            ("RecordId", json!("a\nb"), "InvalidParameter.RecordId"),
            ("RecordId", json!(7), INVALID),
            ("EmulateMobileParams", Value::Null, SUCCESS),
            ("EmulateMobileParams", json!({}), SUCCESS),
            ("EmulateMobileParams", json!([]), INVALID),
            ("EmulateMobileParams.MobileDeviceType", json!(1), SUCCESS),
            ("EmulateMobileParams.MobileDeviceType", json!(2), OUT_OF_RANGE),
            ("EmulateMobileParams.MobileDeviceType", json!(-1), OUT_OF_RANGE),
            ("EmulateMobileParams.ScreenOrientation", json!(1), SUCCESS),
            ("EmulateMobileParams.ScreenOrientation", json!(2), OUT_OF_RANGE),
            ("EmulateMobileParams.ScreenOrientation", json!("1"), INVALID),
            ("Unknown", json!({ "a": [1, { "b": null }] }), SUCCESS),
        ],
    )
    .await;
}

/// The limit is that of the Chinese document; the operator can set that of the international one.
#[tokio::test]
async fn the_operator_sets_the_longest_duration() {
    let day =
        Fixture::with(vec![application("demo", SDK_APP_ID)], |config| config.tencent.max_duration_s = 86_400);
    for (fixture, most) in [(Fixture::new(), 36_000), (day, 86_400)] {
        let limited = |limit| with_value(minimal_params(), "MaxDurationLimit", limit);
        for (limit, longest) in [
            (None, most),
            (Some(json!(0)), most),
            (Some(json!(0.0)), most),
            (Some(json!(1800.0)), 1800),
            (Some(json!(most)), most),
        ] {
            let cast = fixture.start(Encoding::Json, &limited(limit)).await.unwrap();
            assert_eq!(cast.spec.limits.max_time, Duration::from_secs(longest));
        }
        let error = fixture.start(Encoding::Json, &limited(Some(json!(most + 1)))).await.unwrap_err();
        let message = format!("the parameter `MaxDurationLimit` is {}: it must be 1800 to {most}", most + 1);
        assert_eq!((error.code.as_str(), error.message), (OUT_OF_RANGE, message));
    }
}

#[tokio::test]
async fn the_fields_of_the_video() {
    let path = |member: &str| format!("WebRecordVideoParams.{member}");
    let (width, height, format, split) =
        (path("Width"), path("Height"), path("Format"), path("MaxMediaFileDuration"));
    let mut rows = vec![
        ("WebRecordVideoParams", Value::Null, SUCCESS),
        ("WebRecordVideoParams", json!({}), SUCCESS),
        ("WebRecordVideoParams", json!("mp4"), INVALID),
    ];
    for (side, most) in [(&width, 1920), (&height, 1080)] {
        for (value, code) in [
            (Value::Null, SUCCESS),
            (json!(0), SUCCESS),
            (json!(0.0), SUCCESS),
            (json!(1), SUCCESS),
            (json!(49), SUCCESS),
            (json!(50), SUCCESS),
            (json!(51), SUCCESS),
            (json!(most), SUCCESS),
            (json!(most + 1), OUT_OF_RANGE),
            (json!(-2), OUT_OF_RANGE),
            (json!("1280"), INVALID),
            (json!(719.5), INVALID),
        ] {
            rows.push((side, value, code));
        }
    }
    for (value, code) in [
        (Value::Null, SUCCESS),
        (json!("mp4"), SUCCESS),
        (json!("hls"), SUCCESS),
        (json!("flv"), INVALID),
        (json!("MP4"), INVALID),
        (json!(1), INVALID),
    ] {
        rows.push((&format, value, code));
    }
    for (value, code) in [
        (Value::Null, SUCCESS),
        (json!(0), SUCCESS),
        (json!(1), SUCCESS),
        (json!(1440), SUCCESS),
        (json!(1441), OUT_OF_RANGE),
        (json!(-1), OUT_OF_RANGE),
        (json!("60"), INVALID),
    ] {
        rows.push((&split, value, code));
    }
    check_codes(&minimal_params(), &rows).await;
}

#[tokio::test]
async fn the_fields_of_a_bucket() {
    let path = |member: &str| format!("StorageParams.CloudStorage.{member}");
    let (vendor, region, bucket, secret, prefix) =
        (path("Vendor"), path("Region"), path("Bucket"), path("SecretKey"), path("FileNamePrefix"));
    check_codes(
        &minimal_params(),
        &[
            (&vendor, json!(1), SUCCESS),
            (&vendor, json!(2), OUT_OF_RANGE),
            (&vendor, json!(-1), OUT_OF_RANGE),
            (&vendor, json!("0"), INVALID),
            (&region, json!(""), "MissingParameter.Region"),
            (&region, json!("ap guangzhou"), INVALID),
            (&region, json!("evil.example/"), INVALID),
            (&bucket, json!("../../a"), INVALID),
            (&bucket, json!(""), "MissingParameter.Bucket"),
            (&secret, json!(""), "MissingParameter.SecretKey"),
            (&secret, json!(1), INVALID),
            (&prefix, Value::Null, SUCCESS),
            (&prefix, json!([]), SUCCESS),
            (&prefix, json!(["a", "B_1-"]), SUCCESS),
            (&prefix, json!(["a".repeat(200)]), SUCCESS),
            (&prefix, json!(["a".repeat(201)]), INVALID),
            (&prefix, json!(vec!["a".repeat(199); 2]), SUCCESS),
            (&prefix, json!(vec!["a".repeat(200); 2]), INVALID),
            (&prefix, json!([""]), INVALID),
            (&prefix, json!(["a/b"]), INVALID),
            (&prefix, json!([".."]), INVALID),
            (&prefix, json!(["a.b"]), INVALID),
            (&prefix, json!("a"), INVALID),
            (&prefix, json!([1]), INVALID),
            ("StorageParams.CloudVod", json!({ "TencentVod": {} }), INVALID),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_fields_of_a_push() {
    let one = |url: &str| json!([{ "PublishCdnUrl": url }]);
    let many = |n: usize| {
        let target =
            |i| json!({ "PublishCdnUrl": format!("rtmp://cdn.example.com/live/{i}"), "IsTencentCdn": 0 });
        Value::Array((0..n).map(target).collect())
    };
    let path = "PublishCdnParams";
    check_codes(
        &minimal_params(),
        &[
            (path, Value::Null, SUCCESS),
            (path, json!([]), SUCCESS),
            (path, many(1), SUCCESS),
            (path, many(10), SUCCESS),
            (path, many(11), BAD_PUSH_URL),
            (path, one("rtmps://cdn.example.com/live/a"), SUCCESS),
            (path, one("rtmp://8.8.8.8/live/a"), SUCCESS),
            (path, one("https://cdn.example.com/live/a"), BAD_PUSH_URL),
            (path, one("srt://cdn.example.com:9000"), BAD_PUSH_URL),
            (path, one("cdn"), BAD_PUSH_URL),
            (path, one(""), BAD_PUSH_URL),
            (path, json!([{ "IsTencentCdn": 1 }]), BAD_PUSH_URL),
            (path, json!([{ "PublishCdnUrl": "rtmp://a.example/b/c", "IsTencentCdn": 2 }]), OUT_OF_RANGE),
            (
                path,
                json!([{ "PublishCdnUrl": "rtmp://a.example/b/c" },
            { "PublishCdnUrl": "rtmp://a.example/b/c" }]),
                BAD_PUSH_URL,
            ),
            (path, json!([{ "PublishCdnUrl": 1 }]), INVALID),
            (path, json!({ "PublishCdnUrl": "rtmp://a.example/b/c" }), INVALID),
            (path, json!(["rtmp://a.example/b/c"]), INVALID),
            // This machine and private networks, in every spelling.
            (path, one("rtmp://127.0.0.1/live/a"), BAD_PUSH_URL),
            (path, one("rtmp://10.0.0.1:1935/live/a"), BAD_PUSH_URL),
            (path, one("rtmp://169.254.169.254/live/a"), BAD_PUSH_URL),
            (path, one("rtmp://[::1]/live/a"), BAD_PUSH_URL),
            (path, one("rtmp://[::ffff:10.0.0.1]/live/a"), BAD_PUSH_URL),
            (path, one("rtmp://2130706433/live/a"), BAD_PUSH_URL),
            (path, one("rtmp://0x7f.1/live/a"), BAD_PUSH_URL),
            (path, one("rtmp://127.1/live/a"), BAD_PUSH_URL),
        ],
    )
    .await;
    let mut open = application("demo", SDK_APP_ID);
    open.settings.network = serde_json::from_value(json!({ "allow": ["127.0.0.1:1935"] })).unwrap();
    let fixture = Fixture::with(vec![open], |_| {});
    for (url, code) in [
        ("rtmp://127.0.0.1/live/a", SUCCESS),
        ("rtmp://127.0.0.1:1936/live/a", BAD_PUSH_URL),
        ("rtmp://127.0.0.2/live/a", BAD_PUSH_URL),
    ] {
        let params = with_value(minimal_params(), path, Some(one(url)));
        assert_eq!(fixture.error_code(Encoding::Json, "StartWebRecord", &params).await, code, "{url}");
    }
}

#[tokio::test]
async fn the_fields_of_video_on_demand() {
    let base = with_value(
        minimal_params(),
        "StorageParams",
        Some(json!({ "CloudVod": { "TencentVod": { "ClassId": 0 } } })),
    );
    let fixture = Fixture::new();
    assert_eq!(
        fixture.error_code(Encoding::Json, "StartWebRecord", &base).await,
        "FailedOperation.NotAbility"
    );
    let mut app = application("demo", SDK_APP_ID);
    app.settings.storage.vod_keys = Some(VodKeys { id: "vod-id".into(), secret: Secret::new("vod-secret") });
    app.settings.storage.vod_endpoint = Some("http://127.0.0.1:9/".parse().unwrap());
    app.settings.storage.backup = Some(Storage::Bucket(Bucket::new(StorageService::S3, "backup")).into());
    let fixture = Fixture::with(vec![app], |_| {});
    for (member, value, code) in [
        ("Procedure", json!("flow"), SUCCESS),
        ("Procedure", json!(""), SUCCESS),
        ("Procedure", json!("a".repeat(129)), INVALID),
        ("ExpireTime", json!(0), SUCCESS),
        ("ExpireTime", json!(86_400), SUCCESS),
        ("ExpireTime", json!(59), OUT_OF_RANGE),
        ("ExpireTime", json!(-1), OUT_OF_RANGE),
        ("ExpireTime", json!(i64::MAX), OUT_OF_RANGE),
        ("StorageRegion", json!("ap-chongqing"), SUCCESS),
        ("StorageRegion", json!("a/b"), INVALID),
        ("ClassId", json!(7), SUCCESS),
        ("ClassId", json!(-1), OUT_OF_RANGE),
        ("SubAppId", json!(1_500_000_000), SUCCESS),
        ("SubAppId", json!("a"), INVALID),
        ("SessionContext", json!("a".repeat(1000)), SUCCESS),
        ("SessionContext", json!("a".repeat(1001)), INVALID),
        ("SourceContext", json!("a".repeat(251)), INVALID),
        ("MediaType", json!(1), SUCCESS),
        ("MediaType", json!(3), SUCCESS),
        ("MediaType", json!(2), OUT_OF_RANGE),
        ("MediaType", json!(4), OUT_OF_RANGE),
        ("MediaType", json!(5), OUT_OF_RANGE),
        ("UserDefineRecordId", json!("a".repeat(64)), SUCCESS),
        ("UserDefineRecordId", json!("a".repeat(65)), INVALID),
        ("UserDefineRecordId", json!("a b"), INVALID),
    ] {
        let params =
            with_value(base.clone(), &format!("StorageParams.CloudVod.TencentVod.{member}"), Some(value));
        for encoding in [Encoding::Json, Encoding::FormV1] {
            assert_eq!(
                fixture.error_code(encoding, "StartWebRecord", &params).await,
                code,
                "{encoding:?} {member}"
            );
        }
    }
    let full = json!({
        "Procedure": "flow", "ExpireTime": 86_400, "StorageRegion": "ap-chongqing", "ClassId": 3,
        "SubAppId": 4,
        "SessionContext": "s", "SourceContext": "o", "MediaType": 1, "UserDefineRecordId": "talk",
    });
    // `Format` is ignored, because `MediaType` decides.
    let base = with_value(base, "WebRecordVideoParams.Format", Some(json!("flv")));
    let cast = fixture
        .start(Encoding::Get, &with_value(base, "StorageParams.CloudVod.TencentVod", Some(full)))
        .await
        .unwrap();
    let recording = cast.spec.recording.unwrap();
    assert_eq!((recording.format, recording.backup), (Format::HlsTs, None));
    let Storage::TencentVod(vod) = recording.to else { panic!("{:?}", recording.to) };
    let keys = vod.keys.unwrap();
    assert_eq!((keys.access_key.reveal(), keys.secret_key.reveal()), ("vod-id", "vod-secret"));
    assert_eq!(vod.lifetime, Some(Duration::from_secs(86_400)));
    assert_eq!((vod.class_id, vod.sub_app_id, vod.record_id.as_deref()), (3, Some(4), Some("talk")));
    assert_eq!(vod.endpoint.unwrap().as_str(), "http://127.0.0.1:9/");
}

#[tokio::test]
async fn all_parameters_are_in_the_spec() {
    let params = json!({
        "RecordUrl": "https://example.com/room?id=1&name=测试",
        "SdkAppId": SDK_APP_ID,
        "StorageParams": { "CloudStorage": {
            "Vendor": 1, "Region": "us-east-1", "Bucket": "b-125", "AccessKey": "ak", "SecretKey": "sk",
            "FileNamePrefix": ["record", "video"],
        } },
        "MaxDurationLimit": 3600,
        "WebRecordVideoParams": { "Width": 1281, "Height": 0, "Format": "hls", "MaxMediaFileDuration": 60 },
        "RecordId": "rec_1",
        "PublishCdnParams": [
            { "PublishCdnUrl": "rtmp://cdn.example.com/live/a", "IsTencentCdn": 0 },
            { "PublishCdnUrl": "rtmp://cdn.example.com/live/b" },
        ],
        "ReadyTimeout": 30,
        "EmulateMobileParams": { "MobileDeviceType": 1, "ScreenOrientation": 1 },
    });
    let mut app = application("demo", SDK_APP_ID);
    app.settings.storage.s3_endpoint = Some("http://127.0.0.1:9000/".parse().unwrap());
    for encoding in ALL {
        let fixture = Fixture::with(vec![app.clone()], |_| {});
        let cast = fixture.start(encoding, &params).await.unwrap();
        assert_eq!((cast.app.as_str(), cast.api.as_str()), ("demo", "tencent"));
        assert_eq!(cast.key.unwrap().0, "record/1400000001/rec_1");
        let urls = ["rtmp://cdn.example.com/live/a", "rtmp://cdn.example.com/live/b"];
        let request = json!({ "SdkAppId": SDK_APP_ID, "RecordId": "rec_1", "PublishCdnUrls": urls });
        let body = cast.request["body"].to_string();
        assert_eq!(without_body(cast.request), request, "without the keys of the storage");
        assert!(body.contains("\"RecordUrl\":\"https://example.com/room?…\""), "{body}");
        assert!(!body.contains("live/a") && body.contains("\"SecretKey\":\"…\""), "{body}");
        let spec = cast.spec;
        assert_eq!(spec.source.url.reveal(), "https://example.com/room?id=1&name=%E6%B5%8B%E8%AF%95");
        assert_eq!((spec.source.size.to_string().as_str(), spec.source.fps.get()), ("1280x720", 30));
        let mobile = spec.source.context.mobile.unwrap();
        assert_eq!((mobile.device, mobile.orientation), (Device::Tablet, Orientation::Landscape));
        assert_eq!(
            (spec.readiness.signal, spec.readiness.timeout),
            (ReadySignal::NotifyReady, Duration::from_secs(30))
        );
        assert_eq!((spec.limits.max_time, spec.duration), (Duration::from_secs(3600), None));
        let pushes: Vec<_> = spec.pushes.iter().map(|push| push.url.reveal()).collect();
        assert_eq!(pushes, ["rtmp://cdn.example.com/live/a", "rtmp://cdn.example.com/live/b"]);
        let recording = spec.recording.unwrap();
        assert_eq!((recording.name.as_str(), recording.format), (cast.id.as_str(), Format::HlsTs));
        assert_eq!(recording.split, Duration::from_secs(3600));
        let Storage::Bucket(bucket) = recording.to else { panic!("{:?}", recording.to) };
        assert_eq!(bucket.prefix, ["record", "video"], "without the folder of the task");
        assert_eq!((bucket.service, bucket.region.as_deref()), (StorageService::S3, Some("us-east-1")));
        assert_eq!(bucket.path_style, Some(true));
        assert_eq!(bucket.endpoint.unwrap().as_str(), "http://127.0.0.1:9000/");
        let keys = bucket.keys.unwrap();
        assert_eq!((keys.access_key.reveal(), keys.secret_key.reveal()), ("ak", "sk"));
    }
    let cast = Fixture::new().start(Encoding::Json, &minimal_params()).await.unwrap();
    let recording = cast.spec.recording.unwrap();
    assert_eq!((recording.format, recording.split), (Format::Mp4, Duration::from_secs(86_400)));
    let Storage::Bucket(bucket) = recording.to else { panic!("{:?}", recording.to) };
    assert_eq!((bucket.endpoint, bucket.path_style), (None, None));
    assert_eq!(cast.spec.limits.max_time, Duration::from_secs(36_000));
    assert_eq!((cast.spec.readiness.signal, cast.key), (ReadySignal::None, None));
    assert!(cast.spec.source.context.mobile.is_none() && cast.spec.pushes.is_empty());
}
