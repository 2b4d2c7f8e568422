//! Traces: the spans that a collector receives from a build with feature `otlp`, and the warning of a build
//! without.

use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_testkit::{ServiceConfig, ServiceProcess, WebhookReceiver};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

fn otlp_environment(collector: &WebhookReceiver) -> Vec<(&'static str, String)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url("")),
        ("OTEL_SERVICE_NAME", "pagecast-of-the-tests".to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hush-hush".to_owned()),
        // An hour, so that spans are exported only by the shutdown.
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000".to_owned()),
    ]
}

#[cfg(not(feature = "otlp"))]
#[test]
fn without_traces_the_variables_are_reported_as_ineffective() -> Result<()> {
    let collector = WebhookReceiver::start()?;
    let mut service = ServiceProcess::start(
        PAGECAST,
        &ServiceConfig { environment: otlp_environment(&collector), ..ServiceConfig::default() },
    )?;
    service.stop(STOP_TIMEOUT)?;
    ensure!(collector.received().is_empty(), "{:#?}", collector.received());
    let log = service.log();
    ensure!(log.contains("variable has no effect, built without feature otlp"), "{log}");
    ensure!(!log.contains("hush-hush"), "{log}");
    Ok(())
}

#[cfg(feature = "otlp")]
mod with_traces {
    use std::collections::BTreeMap;

    use anyhow::{Context as _, bail};
    use pagecast_testkit::service::{APP_ID, REST_TOKEN};
    use pagecast_testkit::{MachineLock, PageServer, ReceivedRequest};
    use serde_json::json;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(120);
    /// Span kinds and the status of a failed span (OTLP, `trace.proto`).
    const KIND_SERVER: u64 = 2;
    const KIND_CLIENT: u64 = 3;
    const STATUS_ERROR: u64 = 2;

    type Attributes = BTreeMap<String, String>;

    /// The fields of a span that the tests check.
    #[derive(Debug, Default)]
    struct Span {
        name: String,
        kind: u64,
        begin_ns: u64,
        end_ns: u64,
        status: u64,
        attributes: Attributes,
    }

    impl Span {
        fn has_attribute(&self, attribute: &str, value: &str) -> bool {
            self.attributes.get(attribute).is_some_and(|known| known == value)
        }
    }

    /// Value of a field of a protobuf message.
    enum FieldValue<'a> {
        Number(u64),
        Bytes(&'a [u8]),
    }

    fn read_varint(bytes: &mut &[u8]) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().context("a varint is truncated")?;
            *bytes = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Ok(number);
            }
        }
        bail!("a varint is too long")
    }

    fn parse_fields(mut bytes: &[u8]) -> Result<Vec<(u64, FieldValue<'_>)>> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = read_varint(&mut bytes)?;
            let value = match tag & 7 {
                0 => FieldValue::Number(read_varint(&mut bytes)?),
                kind @ (1 | 5) => {
                    let (fixed, rest) = bytes
                        .split_at_checked(if kind == 1 { 8 } else { 4 })
                        .context("a field is truncated")?;
                    bytes = rest;
                    let number = fixed.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
                    FieldValue::Number(number)
                }
                2 => {
                    let len = usize::try_from(read_varint(&mut bytes)?)?;
                    let (value, rest) = bytes.split_at_checked(len).context("a field is truncated")?;
                    bytes = rest;
                    FieldValue::Bytes(value)
                }
                kind => bail!("unknown wire type {kind}"),
            };
            fields.push((tag >> 3, value));
        }
        Ok(fields)
    }

    /// Submessages in the fields with this number.
    fn submessages(bytes: &[u8], number: u64) -> Result<Vec<&[u8]>> {
        let messages = parse_fields(bytes)?.into_iter().filter_map(|(known, value)| match value {
            FieldValue::Bytes(bytes) if known == number => Some(bytes),
            _ => None,
        });
        Ok(messages.collect())
    }

    fn utf8(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Attributes (`KeyValue`) in the fields with this number.
    fn parse_attributes(bytes: &[u8], number: u64) -> Result<Attributes> {
        let mut attributes = BTreeMap::new();
        for pair in submessages(bytes, number)? {
            let key = submessages(pair, 1)?.first().map(|key| utf8(key)).context("no key")?;
            let value = submessages(pair, 2)?.first().copied().unwrap_or_default();
            let value = match parse_fields(value)?.first() {
                Some((_, FieldValue::Number(number))) => number.to_string(),
                Some((_, FieldValue::Bytes(bytes))) => utf8(bytes),
                None => String::new(),
            };
            attributes.insert(key, value);
        }
        Ok(attributes)
    }

    fn parse_span(bytes: &[u8]) -> Result<Span> {
        let mut span = Span { attributes: parse_attributes(bytes, 9)?, ..Span::default() };
        for (number, value) in parse_fields(bytes)? {
            match (number, value) {
                (5, FieldValue::Bytes(name)) => span.name = utf8(name),
                (6, FieldValue::Number(kind)) => span.kind = kind,
                (7, FieldValue::Number(time)) => span.begin_ns = time,
                (8, FieldValue::Number(time)) => span.end_ns = time,
                (15, FieldValue::Bytes(status)) => {
                    let code = parse_fields(status)?.into_iter().find(|(number, _)| *number == 3);
                    span.status = if let Some((_, FieldValue::Number(code))) = code { code } else { 0 };
                }
                _ => {}
            }
        }
        Ok(span)
    }

    /// Parses export requests: attributes of the services, and their spans.
    fn parse_exports(requests: &[ReceivedRequest]) -> Result<(Vec<Attributes>, Vec<Span>)> {
        let (mut services, mut spans) = (Vec::new(), Vec::new());
        for request in requests {
            ensure!(request.path == "/v1/traces", "{request:?}");
            ensure!(request.header("content-type") == Some("application/x-protobuf"), "{request:?}");
            ensure!(request.header("authorization") == Some("hush-hush"), "{request:?}");
            for of_service in submessages(&request.body, 1)? {
                for service in submessages(of_service, 1)? {
                    services.push(parse_attributes(service, 1)?);
                }
                for scope in submessages(of_service, 2)? {
                    for bytes in submessages(scope, 2)? {
                        spans.push(parse_span(bytes)?);
                    }
                }
            }
        }
        Ok((services, spans))
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one story, step by step")]
    fn requests_callbacks_and_casts_are_traced() -> Result<()> {
        let _turn = MachineLock::shared()?;
        let (server, receiver, collector) =
            (PageServer::start()?, WebhookReceiver::start()?, WebhookReceiver::start()?);
        let mut service = ServiceProcess::start(
            PAGECAST,
            &ServiceConfig {
                callback_url: Some(receiver.url("")),
                environment: otlp_environment(&collector),
                ..ServiceConfig::default()
            },
        )?;
        let task = json!({ "AppId": APP_ID, "RoomId": "room", "TaskId": "task" });
        let mut start = task.clone();
        start["UserId"] = json!("webcast_task");
        start["SourceURL"] = json!(server.url("counter.html"));
        start["VideoSolutions"] = json!([{ "Width": 160, "Height": 90, "FrameRate": 5 }]);
        ensure!(service.call("StartWebcast", &start)?.0, "the task is not started");
        let status = |status: &'static str| {
            move |received: &[ReceivedRequest]| received.iter().any(|r| utf8(&r.body).contains(status))
        };
        receiver.wait_until("the task is live", TIMEOUT, status("\\\"Status\\\":1"))?;
        ensure!(service.call("StopWebcast", &task)?.0, "the task is not stopped");
        receiver.wait_until("the task has ended", TIMEOUT, status("\\\"Status\\\":2"))?;
        ensure!(
            !service.call("GetWebCastTask", &json!({ "AppId": "nobody" }))?.0,
            "an unknown application is accepted"
        );
        ensure!(service.rest("GET", "/v1/casts", None)?.status == 200, "no list");
        ensure!(collector.received().is_empty(), "spans were exported before the shutdown");
        service.stop(STOP_TIMEOUT)?;

        let (services, spans) = parse_exports(&collector.received())?;
        for attributes in &services {
            ensure!(attributes["service.name"] == "pagecast-of-the-tests", "{attributes:?}");
        }
        for span in &spans {
            ensure!(span.end_ns >= span.begin_ns && span.begin_ns > 1_700_000_000_000_000_000, "{span:?}");
            let text = format!("{span:?}");
            ensure!(!text.contains(REST_TOKEN) && !text.contains("hush-hush"), "{text}");
        }
        let one = |matches: &dyn Fn(&Span) -> bool, name: &str| {
            spans.iter().find(|span| matches(span)).with_context(|| format!("no {name} in {spans:#?}"))
        };
        one(
            &|s| {
                s.name == "StartWebcast"
                    && s.kind == KIND_SERVER
                    && s.has_attribute("api", "volcengine")
                    && s.has_attribute("code", "ok")
            },
            "start",
        )?;
        let refused = one(&|s| s.name == "GetWebCastTask" && !s.has_attribute("code", "ok"), "refusal")?;
        ensure!(refused.status != STATUS_ERROR, "a refusal is not an error: {refused:?}");
        one(
            &|s| s.name == "GET /v1/casts" && s.has_attribute("api", "v1") && s.has_attribute("code", "200"),
            "list",
        )?;
        let callback = one(
            &|s| s.name == "callback" && s.kind == KIND_CLIENT && s.has_attribute("outcome", "delivered"),
            "callback",
        )?;
        ensure!(callback.has_attribute("status", "200") && callback.status != STATUS_ERROR, "{callback:?}");
        let cast = one(&|s| s.name == "cast", "cast")?;
        ensure!(
            cast.has_attribute("end", "stopped")
                && cast.has_attribute("epoch", "1")
                && cast.has_attribute("app", "test"),
            "{cast:?}"
        );
        ensure!(cast.attributes.contains_key("live_after_ms") && cast.status != STATUS_ERROR, "{cast:?}");
        ensure!(callback.attributes["cast"] == cast.attributes["cast"], "{callback:?}, {cast:?}");
        Ok(())
    }

    #[test]
    fn an_unreachable_collector_is_logged_once_and_delays_no_request() -> Result<()> {
        let mut collector = WebhookReceiver::start()?;
        let mut environment = otlp_environment(&collector);
        environment.push(("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()));
        // The test sends requests without a pause, as each one is a span.
        environment.push(("PAGECAST__LIMITS__REQUESTS_PER_S", "1000000".to_owned()));
        collector.stop();
        let mut service =
            ServiceProcess::start(PAGECAST, &ServiceConfig { environment, ..ServiceConfig::default() })?;
        let begin = std::time::Instant::now();
        while !service.log().contains("trace export failed") {
            ensure!(begin.elapsed() < TIMEOUT, "the failure is not logged");
            ensure!(service.rest("GET", "/v1/casts", None)?.status == 200, "no list");
        }
        collector.restart()?;
        while !service.log().contains("trace export recovered") {
            ensure!(begin.elapsed() < TIMEOUT, "the recovery is not logged");
            ensure!(service.rest("GET", "/v1/casts", None)?.status == 200, "no list");
        }
        service.stop(STOP_TIMEOUT)?;
        let log = service.log();
        ensure!(log.matches("trace export failed").count() == 1 && !log.contains("hush-hush"), "{log}");
        ensure!(!parse_exports(&collector.received())?.1.is_empty(), "no spans were exported");
        Ok(())
    }
}
