//! `docs/reference/config.md`, made from the comments of the types themselves.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::Config;

/// Keys in front, file, type, and where its usual values stand in [`Config`].
const SECTIONS: &[(&str, &str, &str, &str)] = &[
    ("At the top", "config.rs", "Config", ""),
    ("`[tls]`", "config.rs", "Tls", "-"),
    ("`[limits]`", "config.rs", "Limits", "/limits"),
    ("`[casts]`", "config.rs", "Casts", "/casts"),
    ("`[rooms]`: the rooms of this service", "config.rs", "Rooms", "/rooms"),
    ("`[volcengine]`: what Volcengine's documents leave open", "config.rs", "Volcengine", "/volcengine"),
    ("`[tencent]`: what Tencent's documents leave open", "config.rs", "Tencent", "/tencent"),
    ("`[[applications]]`: who may ask for casts", "app.rs", "Application", "app"),
    ("`[[applications.keys]]`", "app.rs", "AccessKey", "-"),
    ("`[applications.callbacks]`", "app.rs", "Callbacks", "-"),
    ("`[applications.callbacks.volcengine]`, `.tencent`, `.native`", "app.rs", "Receiver", "-"),
    ("`codec`", "../../core/src/spec/room.rs", "RoomCodec", "-"),
    (
        "`[applications.room]`: `\"embedded\"`, `service = …` or `volcengine = …`",
        "app.rs",
        "RoomProvider",
        "-",
    ),
    ("`[applications.room.volcengine]`", "app.rs", "VolcengineRooms", "-"),
    ("`[applications.room.service]`: one of", "../../core/src/spec/room.rs", "RoomService", "-"),
    ("`[applications.ice]`", "../../core/src/spec/room.rs", "Ice", "-"),
    ("`[[applications.ice.servers]]`", "../../core/src/spec/room.rs", "IceServer", "-"),
    ("`[applications.storage]`", "app.rs", "StorageDefaults", "-"),
    ("`[applications.storage.default]`: one of", "../../core/src/spec/storage.rs", "Storage", "-"),
    (
        "`[applications.storage.default.bucket]`, `[applications.storage.backup]`",
        "../../core/src/spec/storage/bucket.rs",
        "Bucket",
        "-",
    ),
    ("`keys` of a bucket", "../../core/src/spec/storage/bucket.rs", "Keys", "-"),
    (
        "`[applications.network]`: what may be reached",
        "../../core/src/spec/network.rs",
        "Network",
        "/network",
    ),
    ("`[applications.limits]`: what each cast may use", "../../core/src/spec/care.rs", "Limits", "-"),
];

pub(super) const PREAMBLE: &str = "# Configuration\n\nMade from the program's own types.\n\n\
`pagecast serve` needs no file: then it listens on loopback only and has one demo application, whose keys are kept in the data folder (`credentials.json`). Otherwise it reads `pagecast.toml` \
in the current folder, or the file that `--config` names. The environment beats the file, flags beat both. Unknown keys are errors; `pagecast serve --check-config` \
tells all that is wrong at once, and what should not be so.\n\n\
**Environment.** `PAGECAST__LISTEN=0.0.0.0:8080` sets `listen`, `PAGECAST__CASTS__QUEUE_S=5` sets `queue_s` in `[casts]`: two underscores before each name. Where text \
is wanted, the value is the text; everything else is written as in the file (`PAGECAST__TENCENT__REGIONS='[\"ap-guangzhou\"]'`). `PAGECAST_SECRET_KEY` is short for \
`PAGECAST__SECRET_KEY`, `PAGECAST_ADMIN_TOKEN` for `PAGECAST__ADMIN_TOKEN`.\n\n\
**Secrets.** Wherever a secret is wanted, `{ file = \"/run/credentials/token\" }` takes the text of a file (without line ends behind it) and `{ env = \"NAME\" }` that of a variable.\n\n\
```toml\n\
listen = \"0.0.0.0:8080\"\n\
admin_token = { file = \"/run/credentials/pagecast/admin-token\" }\n\n\
[tls]\n\
certificate = \"/etc/pagecast/chain.pem\"\n\
key = \"/etc/pagecast/key.pem\"\n\n\
[[applications]]\n\
name = \"shop\"\n\
app_id = \"64f0c0a1b2c3d4e5f6a7b8c9\"\n\
sdk_app_id = 1400000000\n\
keys = [{ id = \"AKLTexample\", secret = { env = \"SHOP_SECRET\" } }]\n\n\
[applications.callbacks.volcengine]\n\
url = \"https://shop.example.com/webcast\"\n\
secret = { env = \"SHOP_CALLBACK_SECRET\" }\n\
retry_s = 86400\n\
```\n";

#[test]
fn the_reference_is_current() {
    let mut page = PREAMBLE.to_owned();
    let usual = serde_json::to_value(Config::default()).unwrap();
    let app: crate::app::Application = serde_json::from_str(r#"{"name": ""}"#).unwrap();
    let app = serde_json::to_value(app).unwrap();
    for (title, file, name, at) in SECTIONS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
        let source = std::fs::read_to_string(&path).unwrap();
        let values = match *at {
            "-" => None,
            "app" => Some(&app),
            "/network" => app.pointer(at),
            at => usual.pointer(at),
        };
        write!(page, "\n## {title}\n\n{}\n", type_doc(&source, name)).unwrap();
        page += "\n| key | what |\n|---|---|\n";
        let items = documented_items(&source, name);
        assert!(!items.is_empty(), "{name} is not found in {file}");
        for (key, what) in items {
            let given = values.and_then(|values| values.get(&key)).and_then(toml_value);
            let usually = given.map(|given| format!(" Usually `{given}`.")).unwrap_or_default();
            let written = if key == "max_time" { " Written in seconds." } else { "" };
            writeln!(page, "| `{key}` | {what}{usually}{written} |").unwrap();
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/config.md");
    assert_golden_file(path, &page, "UPDATE=1 cargo test -p pagecast-server --lib reference");
}

/// Compares a page with what is written, or writes it.
pub(crate) fn assert_golden_file(path: &str, page: &str, command: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "{path} is not current: {command}");
}

/// A value as it would stand in a file, if it can.
fn toml_value(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Object(_) => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(list) if !list.is_empty() => None,
        other => Some(other.to_string()),
    }
}

fn declarations(name: &str) -> [String; 2] {
    [format!("pub struct {name} {{"), format!("pub enum {name} {{")]
}

/// What stands above a type.
fn type_doc(source: &str, name: &str) -> String {
    let before = declarations(name)
        .iter()
        .find_map(|head| Some(source.split_once(head.as_str())?.0))
        .unwrap_or_default();
    let above = before.lines().rev().skip_while(|line| line.starts_with("#["));
    let mut lines: Vec<_> = above.map_while(|line| line.strip_prefix("/// ")).collect();
    lines.reverse();
    strip_links(&lines.join(" "))
}

/// Fields or variants, with what stands above them, as they are written in a file. Those of variants are told
/// behind them.
fn documented_items(source: &str, name: &str) -> Vec<(String, String)> {
    let head = declarations(name);
    let Some(body) = head.iter().find_map(|head| Some(source.split_once(head.as_str())?.1)) else {
        return Vec::new();
    };
    let body = body.split_once("\n}").map_or(body, |(body, _)| body);
    let (mut items, mut said) = (Vec::<(String, String)>::new(), String::new());
    for line in body.lines() {
        let deep = line.starts_with("        ");
        let text = line.trim();
        if let Some(doc) = text.strip_prefix("///") {
            said = format!("{said} {}", doc.trim()).trim().to_owned();
        } else if !text.starts_with("#[") && text.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let word: String = text
                .trim_start_matches("pub ")
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let said = strip_links(&std::mem::take(&mut said));
            match (items.last_mut(), deep) {
                (Some((_, what)), true) => what.push_str(&format!(" `{word}`: {said}")),
                _ => items.push((to_kebab_case(&word), said)),
            }
        }
    }
    items
}

/// Variants are written with small letters.
fn to_kebab_case(word: &str) -> String {
    let mut kebab = String::new();
    for c in word.chars() {
        if c.is_ascii_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.push(c.to_ascii_lowercase());
    }
    kebab
}

/// Links to types are words on a page; bars would end a column.
fn strip_links(text: &str) -> String {
    text.replace("`None`", "Without")
        .replace("[`", "`")
        .replace("`]", "`")
        .replace("Self::", "")
        .replace('|', "\\|")
}
