use std::time::Duration;

use super::*;

fn bucket(text: &str) -> Bucket {
    match Storage::parse(text).unwrap() {
        Storage::Bucket(bucket) => bucket,
        other => panic!("{text} is {other:?}"),
    }
}

#[test]
fn addresses_are_parsed() {
    assert_eq!(Storage::parse("/var/rec"), Ok(Storage::Folder("/var/rec".into())));
    let b = bucket("s3://recordings/a/b_c/");
    assert_eq!(
        (b.service, &*b.bucket, b.prefix.join("|")),
        (StorageService::S3, "recordings", "a|b_c".to_owned())
    );
    assert_eq!(b.object_key("x/y.mp4"), "a/b_c/x/y.mp4");
    let b = bucket("s3://rec/?endpoint=http://127.0.0.1:9000&path-style=true&region=us-east-1");
    assert_eq!((b.object_key("x"), b.path_style), ("x".to_owned(), Some(true)));
    assert_eq!(bucket("az://rec?account=mine2").account.as_deref(), Some("mine2"));
    assert_eq!(bucket("gs://rec_1.a").service, StorageService::Gcs);
    // Azure emulators have the account in the path.
    for path in ["", "/", "/devstoreaccount1", "/devstoreaccount1/", "/a/b_c.d"] {
        let endpoint = format!("http://127.0.0.1:10000{path}");
        let found = bucket(&format!("az://rec/p?endpoint={endpoint}")).endpoint;
        assert_eq!(found, Url::parse(&endpoint).ok());
    }
}

#[test]
fn each_service_has_its_endpoint() {
    for (text, address, virtual_host) in [
        ("s3://rec?region=eu-west-1", "https://rec.s3.eu-west-1.amazonaws.com/", true),
        ("s3://a.rec?region=eu-west-1", "https://s3.eu-west-1.amazonaws.com/", false),
        ("s3://rec?region=cn-north-1", "https://rec.s3.cn-north-1.amazonaws.com.cn/", true),
        ("s3://rec?endpoint=http://127.0.0.1:9", "http://127.0.0.1:9/", false),
        ("s3://rec?endpoint=http://minio.example:9&path-style=false", "http://rec.minio.example:9/", true),
        ("cos://rec-125?region=ap-guangzhou", "https://rec-125.cos.ap-guangzhou.myqcloud.com/", true),
        ("tos://rec?region=cn-beijing", "https://rec.tos-s3-cn-beijing.volces.com/", true),
        ("oss://rec?region=cn-hangzhou", "https://rec.oss-cn-hangzhou.aliyuncs.com/", true),
    ] {
        assert_eq!(bucket(text).endpoint_url(), Some((Url::parse(address).unwrap(), virtual_host)), "{text}");
    }
    assert_eq!(bucket("s3://rec").endpoint_url(), None, "the region is in the environment");
    assert_eq!(bucket("gs://rec").endpoint_url(), None);
    assert_eq!(
        (0..4).map(StorageService::from_tencent_vendor).collect::<Vec<_>>(),
        [Some(StorageService::Cos), Some(StorageService::S3), None, None]
    );
}

#[test]
fn invalid_addresses_are_refused_with_a_reason() {
    for (text, part) in [
        ("", "without a name"),
        ("ftp://a", "ftp://: write a folder"),
        ("s3://", "cannot be a bucket of S3"),
        ("s3://Rec", "3 to 63 lower-case letters"),
        ("s3://a..b", "cannot be a bucket"),
        ("s3://-ab", "cannot be a bucket"),
        ("cos://rec_1?region=ap-guangzhou", "recordings-1250000000"),
        ("s3://key:hunter2@rec/a", "remove everything up to the @"),
        ("s3://rec/a//b", "\"\" in a prefix"),
        ("s3://rec/../b", "\"..\" in a prefix"),
        ("s3://rec/%2e%2e/b", "in a prefix"),
        ("s3://rec/a b", "in a prefix"),
        ("s3://rec?regoin=a", "\"regoin\""),
        ("s3://rec?path-style=maybe", "\"path-style\""),
        ("s3://rec?region=evil.example%2F", "cannot be a region"),
        ("s3://rec?region=", "cannot be a region"),
        ("s3://rec?endpoint=ftp://a", "endpoint"),
        ("s3://rec?endpoint=http://u:hunter2@a", "endpoint"),
        ("s3://rec?endpoint=http://a/b?c=hunter2", "endpoint"),
        ("s3://rec?endpoint=http://a/b", "endpoint"),
        ("gs://rec?endpoint=http://a/b", "endpoint"),
        ("az://rec?endpoint=http://a/b?c=hunter2", "endpoint"),
        ("az://rec?endpoint=http://u:hunter2@a/b", "endpoint"),
        ("az://rec?endpoint=http://a//b", "path of this endpoint"),
        ("az://rec?endpoint=http://a/b%252Fc", "path of this endpoint"),
        ("az://rec?endpoint=http://a/b;c", "path of this endpoint"),
        ("cos://rec-1", "needs the region of the bucket, as in ?region=ap-guangzhou"),
        ("az://rec?account=No-Account", "storage account"),
    ] {
        let message = Storage::parse(text).unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains("hunter2"), "{text}: {message}");
    }
    let long = format!("s3://rec/{}", ["a".repeat(150), "b".repeat(150), "c".repeat(150)].join("/"));
    assert_eq!(Storage::parse(&long), Err(StorageError::PrefixLength(452)));
}

#[test]
fn object_names_are_restricted_to_portable_characters() {
    for name in ["a.mp4", "room-1/a_b/0.m4s", "A"] {
        assert!(is_object_name(name), "{name}");
    }
    for name in
        ["", "/a", "a/", "a//b", "..", "a/../b", ".a", "a/.b", "a b", "a\0", "ä", "a\\b", "a:b", "-\n"]
    {
        assert!(!is_object_name(name), "{name:?}");
    }
    assert!(!is_object_name(&"a".repeat(201)) && !is_object_name(&"ab/".repeat(200)));
    assert!(
        Bucket::is_tencent_prefix_component("a_B-1")
            && !Bucket::is_tencent_prefix_component("a.b")
            && !Bucket::is_tencent_prefix_component("")
    );
}

#[test]
fn keys_can_be_removed() {
    let mut full = bucket("s3://rec/a?region=us-east-1");
    let token = Some(crate::spec::Secret::new("hunter4"));
    full.keys = Some(StorageKeys { session_token: token, ..StorageKeys::new("hunter2", "hunter3") });
    let full = Storage::Bucket(full);
    let bare = full.without_keys();
    let shown = format!("{full:?}{}", serde_json::to_string(&bare).unwrap());
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(bare != full && bare.without_keys() == bare);
    let piped: Storage = serde_json::from_str(&serde_json::to_string(&full).unwrap()).unwrap();
    assert_eq!(piped, full, "keys are serialized");
    let mut vod = Storage::TencentVod(Vod { keys: Some(StorageKeys::new("a", "hunter5")), ..Vod::default() });
    assert!(!format!("{vod:?}{:?}", vod.without_keys()).contains("hunter"));
    assert!(vod.keys_mut().is_some() && Storage::Folder("a".into()).keys_mut().is_none());
}

#[test]
fn keys_must_fit_into_headers() {
    let with = |access: &str, secret: &str| {
        let mut b = bucket("s3://rec");
        b.keys = Some(StorageKeys::new(access, secret));
        Storage::Bucket(b).validate()
    };
    assert_eq!(with("AKID", "a b+/=\n"), Ok(()));
    for (access, secret) in [("", "a"), ("a", ""), ("a\r\nHost: b", "a"), ("a", &*"x".repeat(20_000))] {
        let message = with(access, secret).unwrap_err().to_string();
        assert!(message.contains("cannot use these keys") && !message.contains("Host"), "{message}");
    }
}

#[test]
fn video_on_demand_values_are_validated() {
    let good = Vod {
        procedure: Some("flow".into()),
        lifetime: Some(Duration::from_secs(86_400)),
        record_id: Some("room_1-a".into()),
        ..Vod::default()
    };
    assert_eq!(good.validate(), Ok(()));
    assert_eq!(good.media_name("a.mp4"), "room_1-a__UserDefine_u_a.mp4");
    let error = |change: &dyn Fn(&mut Vod)| {
        let mut vod = good.clone();
        change(&mut vod);
        vod.validate().unwrap_err().to_string()
    };
    for (message, part) in [
        (error(&|v| v.procedure = Some("x".repeat(129))), "task flow"),
        (error(&|v| v.lifetime = Some(Duration::ZERO)), "lifetime"),
        (error(&|v| v.storage_region = Some("a.b".into())), "region"),
        (error(&|v| v.session_context = Some("x".repeat(1001))), "session context"),
        (error(&|v| v.source_context = Some("x".repeat(251))), "source context"),
        (error(&|v| v.record_id = Some("a b".into())), "record id"),
        (error(&|v| v.record_id = Some("x".repeat(65))), "record id"),
        (error(&|v| v.endpoint = Some(Url::parse("https://u@a").unwrap())), "endpoint"),
    ] {
        assert!(message.contains(part), "{message}");
    }
    let kinds: Vec<_> = (0..5).map(VodMediaType::from_number).collect();
    assert_eq!(
        kinds,
        [Some(VodMediaType::Mp4), Some(VodMediaType::Hls), None, Some(VodMediaType::HlsMp4), None]
    );
}
