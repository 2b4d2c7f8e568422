//! Description of the three actions for the explorer. Ranges and defaults are those of the parsers.

use pagecast_core::spec::{MAX_PUSHES, VodMediaType};
use serde_json::json;

use super::request::Action as ActionName;
use super::start::{
    DEFAULT_SIZE, FORMATS, HEIGHT_RANGE, MAX_RECORD_ID_LEN, MOBILE_RANGE, READY_TIMEOUT_RANGE_S,
    SPLIT_RANGE_MINUTES, TENCENT_CDN_RANGE, WIDTH_RANGE,
};
use super::storage::{MEDIA_TYPE_RANGE, SECONDS_RANGE, VENDOR_RANGE};
use super::task::MAX_TASK_ID_LEN;
use super::{API, VERSION};
use crate::config::Config;
use crate::explorer::description::{Action, Parameter};

/// Describes all actions.
pub(super) fn actions(config: &Config) -> Vec<Action> {
    ActionName::ALL
        .into_iter()
        .map(|name| {
            let (summary, parameters) = match name {
                ActionName::Start => {
                    ("Opens a page and records it, and pushes it to servers.", start(config))
                }
                ActionName::Stop => {
                    ("Ends a task. Its files are stored afterwards.", vec![task_id().required()])
                }
                ActionName::Describe => (
                    "Tells whether a task is running: by its TaskId, or by SdkAppId and RecordId.",
                    vec![task_id(), sdk_app_id(), record_id()],
                ),
            };
            Action { api: API, action: name.as_str(), version: VERSION, summary, parameters }
        })
        .collect()
}

fn task_id() -> Parameter {
    Parameter::string("TaskId", "0190f0a1b2c37d4e8f90a1b2c3d4e5f6", "Id that StartWebRecord returned.")
        .characters(1..=MAX_TASK_ID_LEN)
}

fn sdk_app_id() -> Parameter {
    Parameter::integer(
        "SdkAppId",
        1..=i64::MAX,
        None,
        "Application of the task: its sdk_app_id. Needed unless the key belongs to one application only.",
    )
    .example(1_400_000_001)
}

fn record_id() -> Parameter {
    Parameter::string(
        "RecordId",
        "lesson-7",
        "Name of the task, chosen by the caller. A second task of the same name is refused while the first \
         one runs.",
    )
    .characters(0..=MAX_RECORD_ID_LEN)
}

fn start(config: &Config) -> Vec<Parameter> {
    let storage = storage();
    // Only one storage is possible.
    let example = json!({ storage[0].name: storage[0].example });
    let seconds = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    let (shortest, longest) =
        (seconds(config.tencent.min_duration_s), seconds(config.tencent.max_duration_s));
    let push = vec![
        Parameter::string(
            "PublishCdnUrl",
            "rtmp://live.example.com/app/key",
            "Address: rtmp:// or rtmps://.",
        )
        .required(),
        Parameter::integer(
            "IsTencentCdn",
            TENCENT_CDN_RANGE,
            Some(1),
            "Whether it is Tencent's own CDN. \
            Pagecast treats both the same.",
        ),
    ];
    let mobile = vec![
        Parameter::integer("MobileDeviceType", MOBILE_RANGE, Some(0), "0 is a phone, 1 a tablet."),
        Parameter::integer("ScreenOrientation", MOBILE_RANGE, Some(0), "0 is portrait, 1 landscape."),
    ];
    vec![
        Parameter::string("RecordUrl", "https://example.com", "Address of the page.").required(),
        sdk_app_id(),
        Parameter::object("StorageParams", storage, "Where the files go: CloudStorage or CloudVod.")
            .example(example)
            .required(),
        Parameter::object("WebRecordVideoParams", video(), "Picture and files."),
        Parameter::integer(
            "MaxDurationLimit",
            shortest..=longest,
            Some(longest),
            "Seconds after which the task ends by itself. 0 means the default.",
        ),
        record_id(),
        Parameter::objects("PublishCdnParams", MAX_PUSHES, push, "Servers to which the page is pushed."),
        Parameter::integer(
            "ReadyTimeout",
            READY_TIMEOUT_RANGE_S,
            Some(0),
            "Longest wait for notifyReady() of the page, in seconds; the recording begins there. 0 does not \
             wait.",
        ),
        Parameter::object("EmulateMobileParams", mobile, "Shows the page as a mobile device does."),
    ]
}

fn video() -> Vec<Parameter> {
    let number =
        |name, range, default, description| Parameter::integer(name, range, Some(default), description);
    vec![
        number("Width", WIDTH_RANGE, DEFAULT_SIZE.0, "Width in pixels. 0 means the default."),
        number("Height", HEIGHT_RANGE, DEFAULT_SIZE.1, "Height in pixels. 0 means the default."),
        Parameter::string("Format", FORMATS[0], "Format of the files. With CloudVod, MediaType decides.")
            .values(&FORMATS)
            .default_value(FORMATS[0]),
        number(
            "MaxMediaFileDuration",
            SPLIT_RANGE_MINUTES,
            *SPLIT_RANGE_MINUTES.end(),
            "Longest MP4 file in minutes. 0 means the default.",
        ),
    ]
}

fn storage() -> Vec<Parameter> {
    let vendors: Vec<i64> = VENDOR_RANGE.collect();
    let bucket = vec![
        Parameter::integer("Vendor", VENDOR_RANGE, None, "0 is COS, 1 is S3.").values(&vendors).required(),
        Parameter::string("Region", "ap-guangzhou", "Region of the bucket.").required(),
        Parameter::string("Bucket", "talks-125", "Name of the bucket.").required(),
        Parameter::string("AccessKey", "AKIDexample", "Key id for the bucket.").required(),
        Parameter::string("SecretKey", "secret", "Secret key for the bucket.").secret().required(),
        Parameter::strings(
            "FileNamePrefix",
            &["lessons", "2026"],
            "Folders around the task's own. Letters, digits, _ and - are possible.",
        ),
    ];
    let media: Vec<i64> = MEDIA_TYPE_RANGE
        .filter(|number| VodMediaType::from_number(number.unsigned_abs()).is_some())
        .collect();
    let number = |name, description| Parameter::integer(name, SECONDS_RANGE, Some(0), description);
    let vod = vec![
        Parameter::string("Procedure", "flow", "Task flow that begins after the upload."),
        number("ExpireTime", "Seconds from 60 after which the file is removed. 0 keeps it."),
        Parameter::string("StorageRegion", "ap-guangzhou", "Region of the storage."),
        number("ClassId", "Number of the media category."),
        number("SubAppId", "Number of the VOD application. 0 is the main one."),
        Parameter::string("SessionContext", "session", "Text that the task flow passes on."),
        Parameter::string("SourceContext", "source", "Text that the notice of the upload passes on."),
        Parameter::integer("MediaType", MEDIA_TYPE_RANGE, Some(0), "0 is MP4, 1 HLS, 3 both.").values(&media),
        Parameter::string("UserDefineRecordId", "lesson-7", "Beginning of the file names."),
    ];
    vec![
        Parameter::object("CloudStorage", bucket, "A bucket."),
        Parameter::object(
            "CloudVod",
            vec![Parameter::object("TencentVod", vod, "Parameters of the upload.").required()],
            "Tencent's video on demand, with the keys of the application's storage.vod_keys.",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pagecast_core::spec::Secret;
    use serde_json::Value;

    use super::super::params::Params;
    use super::super::tests::{SDK_APP_ID, application, service_with};
    use super::super::{error_code::ErrorCode, start, task};
    use super::*;
    use crate::app::VodKeys;
    use crate::explorer::description::testing::{check_parameters, full_request, paths};
    use crate::explorer::read_fields;

    /// Start requests that are complete, one for each storage.
    fn start_requests(parameters: &[Parameter]) -> [Value; 2] {
        let full = Value::Object(full_request(parameters));
        let storage = parameters.iter().find(|parameter| parameter.name == "StorageParams").unwrap();
        let with = |name: &str| {
            let storage = storage.parameters.iter().find(|parameter| parameter.name == name).unwrap();
            let mut request = full.clone();
            request["StorageParams"] = json!({ name: storage.example });
            request
        };
        [with("CloudStorage"), with("CloudVod")]
    }

    #[tokio::test]
    async fn descriptions_and_parser_of_start_agree() {
        let mut app = application("demo", SDK_APP_ID);
        app.settings.storage.vod_keys =
            Some(VodKeys { id: "AKIDvod".to_owned(), secret: Secret::new("secret") });
        app.settings.network.allow.clear();
        let (service, _folder) = service_with(vec![app.clone()]);
        let apps = [Arc::new(app)];
        let parse = |request: &Value| {
            let params = Params::from_json(request.to_string().as_bytes()).unwrap();
            match start::new_cast(&service, &apps, &params.root()) {
                Ok(_) => Ok(()),
                // The number is allowed, but no application has it.
                Err(error) if error.code == ErrorCode::SdkAppIdNotUnderAppId => Ok(()),
                Err(error) => Err(error.message),
            }
        };
        let [start, ..] = &actions(&Config::default())[..] else { panic!("no actions") };
        let [cloud, vod] = start_requests(&start.parameters);
        read_fields::take();
        parse(&cloud).and_then(|()| parse(&vod)).unwrap();
        assert_eq!(read_fields::take(), paths(&start.parameters, ""));

        let (storage, others): (Vec<_>, Vec<_>) =
            start.parameters.iter().cloned().partition(|parameter| parameter.name == "StorageParams");
        check_parameters(&others, "", &cloud, &parse);
        let [buckets, videos] = &storage[0].parameters[..] else { panic!("two storages") };
        check_parameters(&buckets.parameters, "/StorageParams/CloudStorage", &cloud, &parse);
        check_parameters(&videos.parameters, "/StorageParams/CloudVod", &vod, &parse);
        for wrong in [json!({}), json!("x"), Value::Null] {
            let mut request = cloud.clone();
            request["StorageParams"] = wrong;
            assert!(parse(&request).is_err(), "{request}");
        }
    }

    #[test]
    fn descriptions_and_parsers_of_tasks_agree() {
        let [_, stop, describe] = &actions(&Config::default())[..] else { panic!("three actions") };
        let parse = |check: fn(&Params) -> Result<(), super::super::response::ApiError>| {
            move |request: &Value| {
                let params = Params::from_json(request.to_string().as_bytes()).unwrap();
                check(&params).map_err(|error| error.message)
            }
        };
        let (parse_stop, parse_describe) =
            (parse(task::check_stop_params), parse(task::check_describe_params));
        let full = Value::Object(full_request(&stop.parameters));
        read_fields::take();
        parse_stop(&full).unwrap();
        assert_eq!(read_fields::take(), paths(&stop.parameters, ""));
        check_parameters(&stop.parameters, "", &full, &parse_stop);

        let mut full = Value::Object(full_request(&describe.parameters));
        parse_describe(&full).unwrap();
        check_parameters(&describe.parameters[..1], "", &full, &parse_describe);
        full.as_object_mut().unwrap().remove("TaskId");
        parse_describe(&full).unwrap();
        assert_eq!(read_fields::take(), paths(&describe.parameters, ""));
    }

    #[tokio::test]
    async fn defaults_are_those_of_the_parser() {
        let app = application("demo", SDK_APP_ID);
        let (service, _folder) = service_with(vec![app.clone()]);
        let [start, ..] = &actions(&service.config)[..] else { panic!("no actions") };
        let [full, _] = start_requests(&start.parameters);
        let spec = |request: &Value| {
            let params = Params::from_json(request.to_string().as_bytes()).unwrap();
            start::new_cast(&service, &[Arc::new(app.clone())], &params.root()).unwrap().spec
        };
        let text = |request: &Value| serde_json::to_value(spec(request)).unwrap();
        for parameter in &start.parameters {
            for nested in std::iter::once(parameter).chain(&parameter.parameters) {
                let Some(default) = &nested.default else { continue };
                let path = match std::ptr::eq(nested, parameter) {
                    true => format!("/{}", parameter.name),
                    false if parameter.kind == crate::explorer::description::ParameterType::Array => {
                        format!("/{}/0/{}", parameter.name, nested.name)
                    }
                    false => format!("/{}/{}", parameter.name, nested.name),
                };
                let with = |value: Value| {
                    let mut request = full.clone();
                    *request.pointer_mut(&path).unwrap() = value;
                    let mut spec = text(&request);
                    // The folder is named after the cast.
                    spec["recording"] = json!(spec["recording"].to_string().len());
                    spec
                };
                assert_eq!(with(default.clone()), with(Value::Null), "{path}");
            }
        }
    }
}
