//! Description of the three actions. Ranges and defaults are those of the parser.

use super::{
    BITRATE, BLANK_CHECK, CRASH_CHECK, FRAME_RATE, FREEZE_CHECK, HEIGHT, IntField, MAX_ID_LEN,
    MAX_RUNNING_TIME, MAX_SOLUTIONS, MAX_SOURCE_URL_CHARS, START_TIMEOUT, WIDTH,
};
use crate::explorer::description::{Action, Parameter};
use crate::volcengine::{API, Action as ActionName, CALL_VERSION};

/// Describes all actions.
pub(in crate::volcengine) fn actions() -> Vec<Action> {
    ActionName::ALL
        .into_iter()
        .map(|name| {
            let (summary, parameters) = match name {
                ActionName::Start => ("Opens a page and publishes it in a room.", start()),
                ActionName::Stop => ("Ends a task.", task().into()),
                ActionName::Get => {
                    ("Returns state and parameters of a task of the last 72 hours.", task().into())
                }
            };
            let action = name.name_and_rate().0;
            Action { api: API, action, version: CALL_VERSION, summary, parameters }
        })
        .collect()
}

fn task() -> [Parameter; 3] {
    [
        id("AppId", "demo", "Application of the task: its app_id. The key must belong to it.").required(),
        id("RoomId", "room1", "Room in which the page is published.").required(),
        id("TaskId", "task1", "Name of the task, chosen by the caller and unique in its room.").required(),
    ]
}

fn start() -> Vec<Parameter> {
    let [app, room, task] = task();
    let url = Parameter::string("SourceURL", "https://example.com", "Address of the page, with its query.");
    let solution = vec![
        number(&WIDTH, "Width in pixels. An odd width is rounded down."),
        number(&HEIGHT, "Height in pixels. An odd height is rounded down."),
        number(&FRAME_RATE, "Frames in a second."),
        number(&BITRATE, "Largest bitrate in kbit/s. 0 leaves the choice to the service."),
    ];
    let monitor = vec![
        number(&FREEZE_CHECK, "Seconds between two checks for a frozen page. 0 switches the check off."),
        number(&BLANK_CHECK, "Seconds between two checks for a white page. 0 switches the check off."),
        number(&CRASH_CHECK, "Seconds between two checks whether scripts run. 0 switches the check off."),
    ];
    let notify = vec![
        Parameter::boolean(
            "EnableEventNotify",
            "Whether the page decides the beginning and the end by calling onWebcastStart() and \
             onWebcastEnd().",
        ),
        number(
            &START_TIMEOUT,
            "Longest wait for onWebcastStart(), in seconds, before the page is loaded again. 0 waits without \
             a limit.",
        ),
    ];
    vec![
        app,
        room,
        task,
        id(
            "UserId",
            "webcast_1",
            "User as whom the page is published. An earlier one of the same name is \
            removed from the room.",
        )
        .required(),
        url.characters(1..=MAX_SOURCE_URL_CHARS).required(),
        id("BusinessId", "lesson", "Label that callbacks repeat."),
        Parameter::objects(
            "VideoSolutions",
            MAX_SOLUTIONS,
            solution,
            "Streams to publish: with two, viewers get the larger or the smaller one. Without any, one with \
             the defaults is published.",
        ),
        number(&MAX_RUNNING_TIME, "Seconds after which the task ends by itself. 0 means the default."),
        Parameter::object("MonitorConfig", monitor, "Checks of the page. A failed check loads it again."),
        Parameter::object("EventNotifyConfig", notify, "What the page itself says about its state."),
    ]
}

fn id(name: &'static str, example: &str, description: &'static str) -> Parameter {
    Parameter::string(name, example, description).characters(1..=MAX_ID_LEN)
}

fn number(field: &IntField, description: &'static str) -> Parameter {
    let range = i64::from(*field.range.start())..=i64::from(*field.range.end());
    Parameter::integer(field.name, range, Some(field.default.into()), description)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::{StartRequest, TaskRef};
    use super::*;
    use crate::explorer::description::testing::{check_parameters, full_request, paths};
    use crate::explorer::read_fields;

    #[test]
    fn descriptions_and_parser_agree() {
        for action in actions() {
            let parse = |request: &Value| {
                let fields = request.as_object().unwrap();
                if action.action == "StartWebcast" {
                    StartRequest::parse(fields)
                        .and_then(|start| start.page_url())
                        .map(drop)
                        .map_err(|error| error.message)
                } else {
                    TaskRef::parse(fields).map(drop).map_err(|error| error.message)
                }
            };
            let full = Value::Object(full_request(&action.parameters));
            read_fields::take();
            parse(&full).unwrap();
            assert_eq!(read_fields::take(), paths(&action.parameters, ""), "{}", action.action);
            check_parameters(&action.parameters, "", &full, &parse);
        }
    }

    #[test]
    fn defaults_are_those_of_the_parser() {
        let [start, ..] = &actions()[..] else { panic!("no actions") };
        let required = start.parameters.iter().filter(|parameter| parameter.required);
        let minimal: serde_json::Map<String, Value> =
            required.map(|parameter| (parameter.name.to_owned(), parameter.example.clone())).collect();
        let parsed = serde_json::to_value(StartRequest::parse(&minimal).unwrap()).unwrap();
        let mut count = 0;
        for parameter in &start.parameters {
            let parsed = &parsed[parameter.name];
            let parsed = if parsed.is_array() { &parsed[0] } else { parsed };
            if let Some(default) = &parameter.default {
                assert_eq!(parsed, default, "{}", parameter.name);
                count += 1;
            }
            for nested in &parameter.parameters {
                assert_eq!(Some(&parsed[nested.name]), nested.default.as_ref(), "{}", nested.name);
                count += 1;
            }
        }
        assert_eq!(count, 10);
    }
}
