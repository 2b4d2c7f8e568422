//! `pagecast nodes` and `pagecast casts`: tables of the nodes and casts of a service, from its REST API.

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;

use crate::call::{Client, EXIT_API_ERROR, load_token};
use crate::cli;
use crate::console::{self, Column};
use crate::error::CommandError;

/// Casts on a page of the list, the most that the API allows.
const PAGE_LEN: usize = 500;
/// Most casts that are listed. Of more, nobody reads a table.
const MAX_CASTS: usize = 10_000;
/// Bytes of a GiB, the unit of memory in tables.
const GIB: f64 = (1_u64 << 30) as f64;

const NODE_COLUMNS: [Column; 10] = [
    Column::text(0, "NODE"),
    Column::text(1, "STATE"),
    Column::number(2, "CASTS"),
    Column::number(3, "CORES USED"),
    Column::number(4, "CORES"),
    Column::number(5, "MEMORY FREE"),
    Column::text(8, "ROLES"),
    Column::number(7, "HEARTBEAT"),
    Column::text(6, "LEASE"),
    Column::text(9, "LABELS"),
];

const CAST_COLUMNS: [Column; 7] = [
    Column::text(0, "CAST"),
    Column::text(1, "STATE"),
    Column::text(2, "NODE"),
    Column::text(3, "APPLICATION"),
    Column::text(6, "API"),
    Column::text(5, "CREATED (UTC)"),
    Column::text(4, "PAGE"),
];

/// Prints the nodes of a service.
pub(crate) fn nodes(args: &cli::NodesArgs) -> Result<ExitCode, CommandError> {
    let client = client(&args.service)?;
    let response = client.call("GET /v1/nodes", &Value::Null)?;
    if !response.succeeded {
        return Ok(print_refusal(&response.body));
    }
    let nodes = array(&response.body, "nodes")?;
    if args.service.json {
        return print_json(nodes);
    }
    let rows: Vec<_> = nodes.iter().map(node_row).collect();
    console::print_table(&NODE_COLUMNS, &rows);
    Ok(ExitCode::SUCCESS)
}

/// Prints the casts of a service, newest first.
pub(crate) fn casts(args: &cli::CastsArgs) -> Result<ExitCode, CommandError> {
    let client = client(&args.service)?;
    let states: String = form_urlencoded::byte_serialize(args.state.as_bytes()).collect();
    let (mut casts, mut after) = (Vec::new(), String::new());
    loop {
        let page = format!("GET /v1/casts?limit={PAGE_LEN}&state={states}{after}");
        let response = client.call(&page, &Value::Null)?;
        if !response.succeeded {
            return Ok(print_refusal(&response.body));
        }
        casts.extend(array(&response.body, "casts")?.iter().cloned());
        match response.body["next"].as_str() {
            Some(next) if casts.len() < MAX_CASTS => {
                after = format!(
                    "&after={}",
                    form_urlencoded::byte_serialize(next.as_bytes()).collect::<String>()
                );
            }
            _ => break,
        }
    }
    if args.service.json {
        return print_json(&casts);
    }
    let rows: Vec<_> = casts.iter().map(cast_row).collect();
    console::print_table(&CAST_COLUMNS, &rows);
    Ok(ExitCode::SUCCESS)
}

fn client(service: &cli::ServiceOptions) -> anyhow::Result<Client> {
    Ok(Client::new(&service.url, load_token(&service.credentials)?))
}

fn array<'a>(body: &'a Value, name: &str) -> anyhow::Result<&'a Vec<Value>> {
    body[name]
        .as_array()
        .with_context(|| format!("the answer has no list {name}: is this a Pagecast service?"))
}

fn print_json(list: &[Value]) -> Result<ExitCode, CommandError> {
    for object in list {
        console::print_result(&serde_json::to_string(object).context("cannot print the answer")?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the error of a service. Returns the exit code.
pub(crate) fn print_refusal(body: &Value) -> ExitCode {
    let message = body.pointer("/error/message").and_then(Value::as_str);
    console::print_message(&format!("error: {}", message.map_or_else(|| body.to_string(), str::to_owned)));
    ExitCode::from(EXIT_API_ERROR)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> String {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

fn number(value: &Value, decimals: usize) -> String {
    value.as_f64().map(|number| format!("{number:.decimals$}")).unwrap_or_default()
}

fn node_row(node: &Value) -> [String; 10] {
    let seconds = |value: &Value| value.as_f64().map(|s| format!("{s:.1} s")).unwrap_or_default();
    let lease = &node["lease"];
    let lease = match lease["health"].as_str() {
        Some(health) => format!("{health} {}", seconds(&lease["renewal_age_s"])),
        None => "-".to_owned(),
    };
    let memory = node["memory_free_bytes"].as_f64().map(|bytes| format!("{:.1} GiB", bytes / GIB));
    [
        text(&node["name"]),
        if node["draining"] == true { "draining" } else { "running" }.to_owned(),
        number(&node["casts"], 0),
        number(&node["cores_used"], 1),
        number(&node["cores"], 1),
        memory.unwrap_or_default(),
        list(&node["roles"]),
        seconds(&node["heartbeat_age_s"]),
        lease,
        list(&node["labels"]),
    ]
}

fn cast_row(cast: &Value) -> [String; 7] {
    let mut state = text(&cast["state"]);
    if let Some(position) = cast["queue"]["position"].as_u64() {
        state += &format!(" {position}");
    }
    if let Some(waits_for) = cast["queue"]["waits_for"].as_str() {
        state += &format!(", no {waits_for}");
    }
    // Seconds are enough.
    let created = text(&cast["created_at"]).replacen('T', " ", 1);
    let created = created.split(['.', 'Z']).next().unwrap_or_default().to_owned();
    let node = cast["node"].as_str().unwrap_or("-").to_owned();
    [
        text(&cast["id"]),
        state,
        node,
        text(&cast["app"]),
        text(&cast["api"]),
        created,
        text(&cast["source"]["url"]),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_become_rows() {
        let node = json!({
            "name": "a", "version": "1", "roles": ["api", "worker"], "labels": ["x", "y"], "cores": 4.0,
            "cores_used": 1.25, "memory_bytes": 8_u64 << 30, "memory_free_bytes": 5_u64 << 30, "casts": 3,
            "draining": true, "heartbeat_age_s": 0.72, "lease": {"health": "late", "renewal_age_s": 4.5},
        });
        let row = ["a", "draining", "3", "1.2", "4.0", "5.0 GiB", "api,worker", "0.7 s", "late 4.5 s", "x,y"];
        assert_eq!(node_row(&node), row);
        let row = ["", "running", "", "", "", "", "", "", "-", ""];
        assert_eq!(node_row(&json!({})), row, "a strange answer is shown as far as it goes");
    }

    #[test]
    fn casts_become_rows() {
        let cast = |more: Value| {
            let mut cast = json!({
                "id": "0a", "app": "demo", "api": "v1", "created_at": "2026-11-21T17:00:01.000Z",
                "source": {"url": "http://a/"},
            });
            cast.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            cast_row(&cast)
        };
        let row = |state: &str, node: &str| {
            ["0a", state, node, "demo", "v1", "2026-11-21 17:00:01", "http://a/"].map(str::to_owned)
        };
        assert_eq!(cast(json!({"state": "live", "node": "a"})), row("live", "a"));
        let queued = |queue: Value| cast(json!({"state": "queued", "node": null, "queue": queue}));
        assert_eq!(queued(json!({"position": 2, "waits_for": "room"})), row("queued 2, no room", "-"));
        assert_eq!(queued(json!({})), row("queued", "-"));
    }
}
