//! Each field: absent, null, default, lowest, highest, beyond, of the wrong type.

use pagecast_core::spec::{Bucket, Device, Format, MAX_URL_LEN, Orientation, Service, Signal, Storage};

use super::*;

const ALL: [How; 4] = [How::Json, How::Get, How::Form, How::OldGet];

const RANGE: &str = "InvalidParameter.OutOfRange";
const INVALID: &str = "InvalidParameter";
const CDN: &str = "InvalidParameter.PublishCdnUrls";
/// Started.
const GOOD: &str = "";

/// Asks for each value in each encoding; texts for numbers and the like make sense in JSON only.
async fn check(base: &Value, rows: &[(&str, Value, &str)]) {
    let world = World::with(vec![application("demo", SDK_APP_ID), application("other", 7)], |_| {});
    for (place, value, expected) in rows {
        let params = with(base.clone(), place, Some(value.clone()));
        // A form has no empty objects and lists, and everything in it is text.
        let json_only = value.as_object().is_some_and(Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
            || *expected == INVALID;
        for how in ALL.into_iter().take(if json_only { 1 } else { 4 }) {
            let code = world.code(how, "StartWebRecord", &params).await;
            let value = value.to_string().chars().take(80).collect::<String>();
            assert_eq!(code, *expected, "{how:?} {place} = {value}");
        }
    }
}

#[tokio::test]
async fn what_must_be_there_is_missed() {
    let world = World::with(vec![application("demo", SDK_APP_ID), application("other", 7)], |_| {});
    for (place, code) in [
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
            let params = with(least(), place, value);
            for how in ALL {
                let fault = world.ask(how, "StartWebRecord", &params).await.unwrap_err();
                assert_eq!(fault.code, code, "{how:?}");
                assert!(fault.message.contains(&format!("`{place}`")), "{}", fault.message);
            }
        }
    }
    let empty = json!({ "StorageParams": {}, "RecordUrl": "http://a.example/", "SdkAppId": SDK_APP_ID });
    assert_eq!(world.code(How::Json, "StartWebRecord", &empty).await, "MissingParameter.CloudStorage");
    let vod = with(empty, "StorageParams.CloudVod", Some(json!({})));
    assert_eq!(world.code(How::Json, "StartWebRecord", &vod).await, "MissingParameter");
}

#[tokio::test]
async fn the_fields_of_the_request() {
    let long = |n: usize| format!("https://example.com/{}", "a".repeat(n - 20));
    check(
        &least(),
        &[
            ("RecordUrl", json!(long(1024)), GOOD),
            ("RecordUrl", json!(long(1025)), GOOD),
            ("RecordUrl", json!(long(MAX_URL_LEN)), GOOD),
            ("RecordUrl", json!(long(MAX_URL_LEN + 1)), INVALID),
            ("RecordUrl", json!("https://例え.example/テスト?q=测试"), GOOD),
            ("RecordUrl", json!("file:///etc/passwd"), INVALID),
            ("RecordUrl", json!("example.com"), INVALID),
            ("RecordUrl", json!(""), "MissingParameter"),
            ("RecordUrl", json!(7), INVALID),
            ("SdkAppId", json!(7), GOOD),
            ("SdkAppId", json!(0), "InvalidParameter.SdkAppId"),
            ("SdkAppId", json!(-1), "InvalidParameter.SdkAppId"),
            ("SdkAppId", json!(8), "FailedOperation.SdkAppIdNotUnderAppId"),
            ("SdkAppId", json!(u64::MAX), "FailedOperation.SdkAppIdNotUnderAppId"),
            ("SdkAppId", json!("1400000001"), INVALID),
            ("SdkAppId", json!(1.5), INVALID),
            ("MaxDurationLimit", Value::Null, GOOD),
            ("MaxDurationLimit", json!(1799), RANGE),
            ("MaxDurationLimit", json!(1800), GOOD),
            ("MaxDurationLimit", json!(36_000), GOOD),
            ("MaxDurationLimit", json!(36_000.0), GOOD),
            ("MaxDurationLimit", json!(36_001), RANGE),
            ("MaxDurationLimit", json!(86_400), RANGE),
            ("MaxDurationLimit", json!(0), GOOD),
            ("MaxDurationLimit", json!(3600.5), INVALID),
            ("MaxDurationLimit", json!(-1), RANGE),
            ("MaxDurationLimit", json!("3600"), INVALID),
            ("ReadyTimeout", Value::Null, GOOD),
            ("ReadyTimeout", json!(0), GOOD),
            ("ReadyTimeout", json!(60), GOOD),
            ("ReadyTimeout", json!(61), RANGE),
            ("ReadyTimeout", json!(-1), RANGE),
            ("ReadyTimeout", json!(0.5), INVALID),
            ("ReadyTimeout", json!([]), INVALID),
            ("RecordId", Value::Null, GOOD),
            ("RecordId", json!(""), GOOD),
            ("RecordId", json!("a".repeat(32)), "InvalidParameter.RecordId"),
            ("RecordId", json!("测".repeat(11)), "InvalidParameter.RecordId"),
            ("RecordId", json!("a\nb"), "InvalidParameter.RecordId"),
            ("RecordId", json!(7), INVALID),
            ("EmulateMobileParams", Value::Null, GOOD),
            ("EmulateMobileParams", json!({}), GOOD),
            ("EmulateMobileParams", json!([]), INVALID),
            ("EmulateMobileParams.MobileDeviceType", json!(1), GOOD),
            ("EmulateMobileParams.MobileDeviceType", json!(2), RANGE),
            ("EmulateMobileParams.MobileDeviceType", json!(-1), RANGE),
            ("EmulateMobileParams.ScreenOrientation", json!(1), GOOD),
            ("EmulateMobileParams.ScreenOrientation", json!(2), RANGE),
            ("EmulateMobileParams.ScreenOrientation", json!("1"), INVALID),
            ("Unknown", json!({ "a": [1, { "b": null }] }), GOOD),
        ],
    )
    .await;
}

/// What the Chinese document says by default; what the international one says if the operator wants it.
#[tokio::test]
async fn the_longest_duration_is_the_operators() {
    let day =
        World::with(vec![application("demo", SDK_APP_ID)], |config| config.tencent.max_duration_s = 86_400);
    for (world, most) in [(World::new(), 36_000), (day, 86_400)] {
        let limited = |limit| with(least(), "MaxDurationLimit", limit);
        for (limit, longest) in [
            (None, most),
            (Some(json!(0)), most),
            (Some(json!(0.0)), most),
            (Some(json!(1800.0)), 1800),
            (Some(json!(most)), most),
        ] {
            let cast = world.start(How::Json, &limited(limit)).await.unwrap();
            assert_eq!(cast.spec.limits.max_time, Duration::from_secs(longest));
        }
        let fault = world.start(How::Json, &limited(Some(json!(most + 1)))).await.unwrap_err();
        let words = format!("the parameter `MaxDurationLimit` is {}: 1800 to {most} are possible", most + 1);
        assert_eq!((fault.code, fault.message), (RANGE, words));
    }
}

#[tokio::test]
async fn the_fields_of_the_video() {
    let place = |member: &str| format!("WebRecordVideoParams.{member}");
    let (width, height, format, split) =
        (place("Width"), place("Height"), place("Format"), place("MaxMediaFileDuration"));
    let mut rows = vec![
        ("WebRecordVideoParams", Value::Null, GOOD),
        ("WebRecordVideoParams", json!({}), GOOD),
        ("WebRecordVideoParams", json!("mp4"), INVALID),
    ];
    for (side, most) in [(&width, 1920), (&height, 1080)] {
        for (value, code) in [
            (Value::Null, GOOD),
            (json!(0), GOOD),
            (json!(0.0), GOOD),
            (json!(1), GOOD),
            (json!(49), GOOD),
            (json!(50), GOOD),
            (json!(51), GOOD),
            (json!(most), GOOD),
            (json!(most + 1), RANGE),
            (json!(-2), RANGE),
            (json!("1280"), INVALID),
            (json!(719.5), INVALID),
        ] {
            rows.push((side, value, code));
        }
    }
    for (value, code) in [
        (Value::Null, GOOD),
        (json!("mp4"), GOOD),
        (json!("hls"), GOOD),
        (json!("flv"), INVALID),
        (json!("MP4"), INVALID),
        (json!(1), INVALID),
    ] {
        rows.push((&format, value, code));
    }
    for (value, code) in [
        (Value::Null, GOOD),
        (json!(0), GOOD),
        (json!(1), GOOD),
        (json!(1440), GOOD),
        (json!(1441), RANGE),
        (json!(-1), RANGE),
        (json!("60"), INVALID),
    ] {
        rows.push((&split, value, code));
    }
    check(&least(), &rows).await;
}

#[tokio::test]
async fn the_fields_of_a_bucket() {
    let place = |member: &str| format!("StorageParams.CloudStorage.{member}");
    let (vendor, region, bucket, secret, prefix) =
        (place("Vendor"), place("Region"), place("Bucket"), place("SecretKey"), place("FileNamePrefix"));
    check(
        &least(),
        &[
            (&vendor, json!(1), GOOD),
            (&vendor, json!(2), RANGE),
            (&vendor, json!(-1), RANGE),
            (&vendor, json!("0"), INVALID),
            (&region, json!(""), "MissingParameter.Region"),
            (&region, json!("ap guangzhou"), INVALID),
            (&region, json!("evil.example/"), INVALID),
            (&bucket, json!("../../a"), INVALID),
            (&bucket, json!(""), "MissingParameter.Bucket"),
            (&secret, json!(""), "MissingParameter.SecretKey"),
            (&secret, json!(1), INVALID),
            (&prefix, Value::Null, GOOD),
            (&prefix, json!([]), GOOD),
            (&prefix, json!(["a", "B_1-"]), GOOD),
            (&prefix, json!(["a".repeat(200)]), GOOD),
            (&prefix, json!(["a".repeat(201)]), INVALID),
            (&prefix, json!(vec!["a".repeat(199); 2]), GOOD),
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
    let place = "PublishCdnParams";
    check(
        &least(),
        &[
            (place, Value::Null, GOOD),
            (place, json!([]), GOOD),
            (place, many(1), GOOD),
            (place, many(10), GOOD),
            (place, many(11), CDN),
            (place, one("rtmps://cdn.example.com/live/a"), GOOD),
            (place, one("rtmp://8.8.8.8/live/a"), GOOD),
            (place, one("https://cdn.example.com/live/a"), CDN),
            (place, one("srt://cdn.example.com:9000"), CDN),
            (place, one("cdn"), CDN),
            (place, one(""), CDN),
            (place, json!([{ "IsTencentCdn": 1 }]), CDN),
            (place, json!([{ "PublishCdnUrl": "rtmp://a.example/b/c", "IsTencentCdn": 2 }]), RANGE),
            (place, json!([{ "PublishCdnUrl": "rtmp://a.example/b/c" }, { "PublishCdnUrl": "rtmp://a.example/b/c" }]), CDN),
            (place, json!([{ "PublishCdnUrl": 1 }]), INVALID),
            (place, json!({ "PublishCdnUrl": "rtmp://a.example/b/c" }), INVALID),
            (place, json!(["rtmp://a.example/b/c"]), INVALID),
            // This machine and its neighbours, however they are written.
            (place, one("rtmp://127.0.0.1/live/a"), CDN),
            (place, one("rtmp://10.0.0.1:1935/live/a"), CDN),
            (place, one("rtmp://169.254.169.254/live/a"), CDN),
            (place, one("rtmp://[::1]/live/a"), CDN),
            (place, one("rtmp://[::ffff:10.0.0.1]/live/a"), CDN),
            (place, one("rtmp://2130706433/live/a"), CDN),
            (place, one("rtmp://0x7f.1/live/a"), CDN),
            (place, one("rtmp://127.1/live/a"), CDN),
        ],
    )
    .await;
    let mut open = application("demo", SDK_APP_ID);
    open.network = serde_json::from_value(json!({ "allow": ["127.0.0.1:1935"] })).unwrap();
    let world = World::with(vec![open], |_| {});
    for (url, code) in [
        ("rtmp://127.0.0.1/live/a", GOOD),
        ("rtmp://127.0.0.1:1936/live/a", CDN),
        ("rtmp://127.0.0.2/live/a", CDN),
    ] {
        let params = with(least(), place, Some(one(url)));
        assert_eq!(world.code(How::Json, "StartWebRecord", &params).await, code, "{url}");
    }
}

#[tokio::test]
async fn the_fields_of_video_on_demand() {
    let base =
        with(least(), "StorageParams", Some(json!({ "CloudVod": { "TencentVod": { "ClassId": 0 } } })));
    let world = World::new();
    assert_eq!(world.code(How::Json, "StartWebRecord", &base).await, "FailedOperation.NotAbility");
    let mut app = application("demo", SDK_APP_ID);
    app.storage.vod_keys =
        Some(AccessKey { id: "vod-id".into(), secret: Secret::new("vod-secret"), disabled: false });
    app.storage.vod_endpoint = Some("http://127.0.0.1:9/".parse().unwrap());
    app.storage.backup = Some(Bucket::new(Service::S3, "backup"));
    let world = World::with(vec![app], |_| {});
    for (member, value, code) in [
        ("Procedure", json!("flow"), GOOD),
        ("Procedure", json!(""), GOOD),
        ("Procedure", json!("a".repeat(129)), INVALID),
        ("ExpireTime", json!(0), GOOD),
        ("ExpireTime", json!(86_400), GOOD),
        ("ExpireTime", json!(59), RANGE),
        ("ExpireTime", json!(-1), RANGE),
        ("ExpireTime", json!(i64::MAX), RANGE),
        ("StorageRegion", json!("ap-chongqing"), GOOD),
        ("StorageRegion", json!("a/b"), INVALID),
        ("ClassId", json!(7), GOOD),
        ("ClassId", json!(-1), RANGE),
        ("SubAppId", json!(1_500_000_000), GOOD),
        ("SubAppId", json!("a"), INVALID),
        ("SessionContext", json!("a".repeat(1000)), GOOD),
        ("SessionContext", json!("a".repeat(1001)), INVALID),
        ("SourceContext", json!("a".repeat(251)), INVALID),
        ("MediaType", json!(1), GOOD),
        ("MediaType", json!(3), GOOD),
        ("MediaType", json!(2), RANGE),
        ("MediaType", json!(4), RANGE),
        ("MediaType", json!(5), RANGE),
        ("UserDefineRecordId", json!("a".repeat(64)), GOOD),
        ("UserDefineRecordId", json!("a".repeat(65)), INVALID),
        ("UserDefineRecordId", json!("a b"), INVALID),
    ] {
        let params = with(base.clone(), &format!("StorageParams.CloudVod.TencentVod.{member}"), Some(value));
        for how in [How::Json, How::Form] {
            assert_eq!(world.code(how, "StartWebRecord", &params).await, code, "{how:?} {member}");
        }
    }
    let full = json!({
        "Procedure": "flow", "ExpireTime": 86_400, "StorageRegion": "ap-chongqing", "ClassId": 3, "SubAppId": 4,
        "SessionContext": "s", "SourceContext": "o", "MediaType": 1, "UserDefineRecordId": "talk",
    });
    // What the kind of medium decides is not looked at.
    let base = with(base, "WebRecordVideoParams.Format", Some(json!("flv")));
    let cast =
        world.start(How::Get, &with(base, "StorageParams.CloudVod.TencentVod", Some(full))).await.unwrap();
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
async fn a_whole_request_becomes_a_cast() {
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
    app.storage.s3_endpoint = Some("http://127.0.0.1:9000/".parse().unwrap());
    for how in ALL {
        let world = World::with(vec![app.clone()], |_| {});
        let cast = world.start(how, &params).await.unwrap();
        assert_eq!((cast.app.as_str(), cast.origin.as_str()), ("demo", "tencent"));
        assert_eq!(cast.key.unwrap().0, "record/1400000001/rec_1");
        let urls = ["rtmp://cdn.example.com/live/a", "rtmp://cdn.example.com/live/b"];
        let request = json!({ "SdkAppId": SDK_APP_ID, "RecordId": "rec_1", "PublishCdnUrls": urls });
        assert_eq!(cast.request, request, "and no keys of storages");
        let spec = cast.spec;
        assert_eq!(spec.source.url.reveal(), "https://example.com/room?id=1&name=%E6%B5%8B%E8%AF%95");
        assert_eq!((spec.source.size.to_string().as_str(), spec.source.fps.get()), ("1280x720", 30));
        let mobile = spec.source.context.mobile.unwrap();
        assert_eq!((mobile.device, mobile.orientation), (Device::Tablet, Orientation::Landscape));
        assert_eq!(
            (spec.readiness.signal, spec.readiness.timeout),
            (Signal::NotifyReady, Duration::from_secs(30))
        );
        assert_eq!((spec.limits.max_time, spec.duration), (Duration::from_secs(3600), None));
        let pushes: Vec<_> = spec.pushes.iter().map(|push| push.url.reveal()).collect();
        assert_eq!(pushes, ["rtmp://cdn.example.com/live/a", "rtmp://cdn.example.com/live/b"]);
        let recording = spec.recording.unwrap();
        assert_eq!((recording.name.as_str(), recording.format), (cast.id.as_str(), Format::HlsTs));
        assert_eq!(recording.split, Duration::from_secs(3600));
        let Storage::Bucket(bucket) = recording.to else { panic!("{:?}", recording.to) };
        assert_eq!(bucket.prefix, ["record", "video"], "the folder of the task is below");
        assert_eq!((bucket.service, bucket.region.as_deref()), (Service::S3, Some("us-east-1")));
        assert_eq!(bucket.path_style, Some(true));
        assert_eq!(bucket.endpoint.unwrap().as_str(), "http://127.0.0.1:9000/");
        let keys = bucket.keys.unwrap();
        assert_eq!((keys.access_key.reveal(), keys.secret_key.reveal()), ("ak", "sk"));
    }
    let cast = World::new().start(How::Json, &least()).await.unwrap();
    let recording = cast.spec.recording.unwrap();
    assert_eq!((recording.format, recording.split), (Format::Mp4, Duration::from_secs(86_400)));
    let Storage::Bucket(bucket) = recording.to else { panic!("{:?}", recording.to) };
    assert_eq!((bucket.endpoint, bucket.path_style), (None, None));
    assert_eq!(cast.spec.limits.max_time, Duration::from_secs(36_000));
    assert_eq!((cast.spec.readiness.signal, cast.key), (Signal::None, None));
    assert!(cast.spec.source.context.mobile.is_none() && cast.spec.pushes.is_empty());
}
