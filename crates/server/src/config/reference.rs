//! Generates `docs/reference/config.md` from the doc comments of the types.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::Config;

/// Title, source file and type of each section, and the JSON pointer to its defaults in [`Config`] or, after
/// `app`, in an application (`-`: none).
const SECTIONS: &[(&str, &str, &str, &str)] = &[
    ("Top level", "config.rs", "Config", ""),
    ("`[tls]`", "config.rs", "Tls", "-"),
    ("`[limits]`", "config.rs", "Limits", "/limits"),
    ("`[casts]`", "config.rs", "Casts", "/casts"),
    ("`[rooms]`: the embedded rooms", "config.rs", "Rooms", "/rooms"),
    ("`[fleet]`: many machines", "config/fleet.rs", "Fleet", "/fleet"),
    ("`[fleet.peer]`: the channel between nodes", "config/fleet.rs", "Peer", "-"),
    ("`[console]`", "config/console.rs", "Console", "-"),
    ("`[console.oidc]`: OpenID Connect", "config/console.rs", "Oidc", "-"),
    ("`[[console.oidc.roles]]`", "config/console.rs", "OidcRole", "-"),
    ("`[volcengine]`: the Volcengine API", "config.rs", "Volcengine", "/volcengine"),
    ("`[tencent]`: the Tencent API", "config.rs", "Tencent", "/tencent"),
    ("`[[applications]]`: clients of the APIs", "app.rs", "Application", "app"),
    ("`[[applications]]`: settings", "app/settings.rs", "Settings", "app"),
    ("`[[applications.keys]]`", "app.rs", "AccessKey", "-"),
    ("`[applications.callbacks]`", "app/settings.rs", "Callbacks", "-"),
    (
        "`[applications.callbacks.volcengine]`, `.tencent`, `.native`",
        "app/settings.rs",
        "CallbackReceiver",
        "-",
    ),
    ("`codec`", "../../core/src/spec/room.rs", "RoomCodec", "-"),
    (
        "`[applications.room]`: values of `type`, and what else belongs to each",
        "app/room.rs",
        "RoomProvider",
        "-",
    ),
    ("`[applications.ice]`", "app/room.rs", "Ice", "app/ice"),
    ("`[[applications.ice.servers]]`", "app/room.rs", "IceServer", "-"),
    ("`[applications.storage]`", "app/storage.rs", "StorageDefaults", "-"),
    (
        "`[fleet.store]`, `[applications.storage.default]`, `[applications.storage.backup]`",
        "app/storage.rs",
        "StorageLocation",
        "-",
    ),
    ("`keys` of a bucket", "app/storage.rs", "StorageKeys", "-"),
    ("`[applications.storage.vod_keys]`", "app/storage.rs", "VodKeys", "-"),
    ("`[applications.network]`: network policy", "app/settings.rs", "Network", "app/network"),
    ("`[applications.limits]`: limits of each cast", "app/settings.rs", "Limits", "app/limits"),
    ("`max_video`", "app/settings.rs", "MaxVideo", "-"),
];

pub(super) const PREAMBLE: &str = "# Configuration\n\nGenerated from the program's types.\n\n\
`pagecast serve` needs no configuration file: without one, it listens on loopback only and has one demo \
application, whose credentials it generates in the data folder (`credentials.json`). Otherwise it reads \
`pagecast.toml` in the current folder, or the file given with `--config`. The environment overrides the \
file, and \
flags override both. Unknown keys are errors. `pagecast serve --check-config` reports all errors and \
warnings at \
once.\n\n\
**Environment.** `PAGECAST__LISTEN=0.0.0.0:8080` sets `listen`, `PAGECAST__CASTS__QUEUE_TIMEOUT_S=5` sets \
`queue_timeout_s` in `[casts]`: two underscores before each name. A value that the file would quote is given \
without quotes; everything else is written as in the file \
(`PAGECAST__TENCENT__REGIONS='[\"ap-guangzhou\"]'`). \
`PAGECAST_SECRET_KEY` is short for `PAGECAST__SECRET_KEY`, `PAGECAST_ADMIN_TOKEN` for \
`PAGECAST__ADMIN_TOKEN`, `PAGECAST_DATABASE` for `PAGECAST__FLEET__DATABASE`, and `PAGECAST_FLEET_SECRET` \
for `PAGECAST__FLEET__PEER__SECRET`.\n\n\
**Secrets.** Every secret may be given as `{ file = \"/run/credentials/token\" }`, the contents of a file \
without \
trailing line breaks, or as `{ env = \"NAME\" }`, the value of an environment variable.\n\n\
```toml\n\
listen = \"0.0.0.0:8080\"\n\
admin_token = { file = \"/run/credentials/pagecast/admin-token\" }\n\n\
[tls]\n\
certificate = \"/etc/pagecast/chain.pem\"\n\
key = \"/etc/pagecast/key.pem\"\n\n\
[rooms]\n\
public_url = \"https://pagecast.example.com\"\n\
media_listen = \"0.0.0.0:8082\"\n\
secret = { env = \"ROOMS_SECRET\" }\n\n\
[[applications]]\n\
name = \"shop\"\n\
app_id = \"64f0c0a1b2c3d4e5f6a7b8c9\"\n\
sdk_app_id = 1400000000\n\
keys = [{ id = \"AKLTexample\", secret = { env = \"SHOP_SECRET\" } }]\n\n\
[applications.callbacks.volcengine]\n\
url = \"https://shop.example.com/webcast\"\n\
secret = { env = \"SHOP_CALLBACK_SECRET\" }\n\
extra_retry_s = 86400\n\n\
[applications.room]\n\
type = \"livekit\"\n\
url = \"wss://livekit.example.com\"\n\
key = \"APIexample\"\n\
secret = { env = \"SHOP_LIVEKIT_SECRET\" }\n\n\
[applications.storage.default]\n\
to = \"s3://shop-recordings/casts?region=eu-central-1\"\n\
```\n";

#[test]
fn the_reference_is_current() {
    let mut page = PREAMBLE.to_owned();
    let defaults = serde_json::to_value(Config::default()).unwrap();
    let app = serde_json::to_value(crate::app::Application::new("")).unwrap();
    for (title, file, name, at) in SECTIONS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
        let source = std::fs::read_to_string(&path).unwrap();
        let values = match at.strip_prefix("app") {
            Some(at) => app.pointer(at),
            None => defaults.pointer(at),
        };
        write!(page, "\n## {title}\n\n{}\n", type_doc(&source, name)).unwrap();
        page += "\n| key | meaning |\n|---|---|\n";
        let items = documented_items(&source, name);
        assert!(!items.is_empty(), "{name} is not found in {file}");
        for (key, doc) in items {
            let value = values.and_then(|values| values.get(&key)).and_then(toml_value);
            let default = value.map(|value| format!(" Default: `{value}`.")).unwrap_or_default();
            writeln!(page, "| `{key}` | {doc}{default} |").unwrap();
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/config.md");
    assert_golden_file(path, &page, "UPDATE=1 cargo test -p pagecast-server --lib reference");
}

/// Compares a generated page with its file, or writes the file if `UPDATE` is set.
pub(crate) fn assert_golden_file(path: &str, page: &str, command: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, page).unwrap();
    }
    let current = std::fs::read_to_string(path).unwrap_or_default();
    assert!(current == page, "{path} is out of date: run {command}");
}

/// Formats a default as in the file, unless it has no concise form.
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

/// Doc comment of a type.
fn type_doc(source: &str, name: &str) -> String {
    let preceding = declarations(name)
        .iter()
        .find_map(|head| Some(source.split_once(head.as_str())?.0))
        .unwrap_or_default();
    let above = preceding.lines().rev().skip_while(|line| line.starts_with("#["));
    let mut lines: Vec<_> = above.map_while(|line| line.strip_prefix("/// ")).collect();
    lines.reverse();
    strip_links(&lines.join(" "))
}

/// Fields or variants of a type, spelled as in the file, with their doc comments. Fields of a variant are
/// appended to its doc comment.
fn documented_items(source: &str, name: &str) -> Vec<(String, String)> {
    let head = declarations(name);
    let Some(body) = head.iter().find_map(|head| Some(source.split_once(head.as_str())?.1)) else {
        return Vec::new();
    };
    let body = body.split_once("\n}").map_or(body, |(body, _)| body);
    let (mut items, mut docs) = (Vec::<(String, String)>::new(), String::new());
    // Flattened fields are in another section.
    let body = body.split("#[serde(flatten)]").next().unwrap_or(body);
    for line in body.lines() {
        let is_nested = line.starts_with("        ");
        let text = line.trim();
        if let Some(line) = text.strip_prefix("///") {
            docs = format!("{docs} {}", line.trim()).trim().to_owned();
        } else if !text.starts_with("#[") && text.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let word: String = text
                .trim_start_matches("pub ")
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let doc = strip_links(&std::mem::take(&mut docs));
            match (items.last_mut(), is_nested) {
                (Some((_, variant)), true) => variant.push_str(&format!(" `{word}`: {doc}")),
                _ => items.push((to_kebab_case(&word), doc)),
            }
        }
    }
    items
}

/// Converts the name of a variant to its spelling in the file.
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

/// Removes links to types and escapes bars, which would end a table column.
fn strip_links(text: &str) -> String {
    text.replace("`None`", "A missing value")
        .replace("[`", "`")
        .replace("`]", "`")
        .replace("Self::", "")
        .replace('|', "\\|")
}
