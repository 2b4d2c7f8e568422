use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use pagecast_testkit::ScratchDir;
use serde_json::{Value, json};

use super::*;
use crate::app::testing::full_settings;

/// Loads a configuration from the text of a file and an environment. Errors call the file `FILE`.
fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let scratch = ScratchDir::new().unwrap();
    let file = scratch.path().join("pagecast.toml");
    std::fs::write(&file, text).unwrap();
    let environment: Vec<_> = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let options = Options { file: Some(file.clone()), ..Options::default() };
    load(&options, &environment).map_err(|error| match error {
        Error::Invalid(errors) => {
            errors.iter().map(|error| error.replace(file.to_str().unwrap(), "FILE")).collect()
        }
        Error::Read(..) => panic!("{error}"),
    })
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let scratch = ScratchDir::new().unwrap();
    let file = scratch.path().join("a.toml");
    std::fs::write(
        &file,
        "listen = \"127.0.0.1:1\"\ndata = \"a\"\n[casts]\nqueue_timeout_s = 1\nwarm_browsers = 1\n",
    )
    .unwrap();
    let environment =
        [("PAGECAST__LISTEN", "127.0.0.1:2"), ("PAGECAST__CASTS__QUEUE_TIMEOUT_S", "2"), ("OTHER", "x")];
    let environment = environment.map(|(n, v)| (n.to_owned(), v.to_owned()));
    let options = Options { file: Some(file), listen: Some("127.0.0.1:3".parse().unwrap()), data: None };
    let config = load(&options, &environment).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.data, PathBuf::from("a"));
    assert_eq!(
        (config.casts.queue_timeout_s, config.casts.warm_browsers, config.casts.max_running),
        (2, 1, 1000)
    );
}

#[test]
fn variables_of_text_keys_are_read_literally() {
    let environment = [
        ("PAGECAST_ADMIN_TOKEN", "1234567890123456"),
        ("PAGECAST_SECRET_KEY", "true"),
        ("PAGECAST__VOLCENGINE__REGIONS", r#"["cn-north-1"]"#),
        ("PAGECAST__VOLCENGINE__REJECT_RUNNING_TASK", "true"),
        ("PAGECAST__TLS__CERTIFICATE", "1"),
        ("PAGECAST__TLS__KEY", "k"),
        ("PAGECAST__ROOMS__SECRET", r#"{ env = "ELSEWHERE" }"#),
        ("PAGECAST__APPLICATIONS", r#"[{ name = "a", tokens = [{ env = "ELSEWHERE" }] }]"#),
        ("ELSEWHERE", "from elsewhere"),
    ];
    let config = load_text("", &environment).unwrap();
    assert_eq!(config.admin_token.unwrap().reveal(), "1234567890123456");
    assert_eq!(config.secret_key.unwrap().reveal(), "true");
    assert_eq!(
        config.volcengine,
        Volcengine { reject_running_task: true, regions: vec!["cn-north-1".into()] }
    );
    assert_eq!(config.tls.unwrap().certificate, PathBuf::from("1"));
    assert_eq!(config.rooms.secret.unwrap().reveal(), "from elsewhere");
    assert_eq!(config.applications[0].tokens[0].reveal(), "from elsewhere");
}

#[test]
fn all_errors_are_reported_with_their_lines() {
    let cases: &[(&str, &[&str])] = &[
        ("liste = 1", &["FILE, line 1: liste: unknown key; did you mean listen?"]),
        (
            "\n[casts]\nqueue_seconds = 1\n[tencent]\nregion = []",
            &[
                "FILE, line 3: casts.queue_seconds: unknown key; known keys: queue_timeout_s, \
                 max_queue_timeout_s, max_queued_casts, cpu_share, reserved_memory_mib, min_free_disk_mib, \
                 browser_uids, max_running, warm_browsers, drain_timeout_s, upload_timeout_s, retention_h, \
                 max_database_mib",
                "FILE, line 5: tencent.region: unknown key; did you mean regions?",
            ],
        ),
        (
            "[casts]\nwarm_browsers = \"many\"",
            &["FILE, line 2: casts.warm_browsers: must be an integer of at least 0, found string"],
        ),
        ("listen = \"here\"", &["FILE, line 1: listen: invalid socket address syntax"]),
        ("a = 1\na = 2", &["FILE, line 2: duplicate key"]),
        ("x = [", &["FILE, line 1: unclosed array, expected `]`"]),
        ("applications = 1", &["FILE, line 1: applications: must be a list: write [[applications]]"]),
        (
            "[[applications]]\nname = \"a\"\n[[applications]]\nname = \"b\"\ntoken = \
             []\n[[applications]]\nmax_casts = 1",
            &[
                "FILE, line 5: applications[1].token: unknown key; did you mean tokens?",
                "FILE, line 6: applications[2]: the key name is missing",
            ],
        ),
        (
            "[[applications]]\nname = \"a\"\n[applications.storage]\nbuckets_folder = \"a\"",
            &["FILE, line 4: applications[0].storage.buckets_folder: unknown key; did you mean buckets_dir?"],
        ),
        (
            "[[applications]]\nname = \"a\"\n[applications.network]\nalow = \
             []\n[applications.limits]\nattempt = 1",
            &[
                "FILE, line 6: applications[0].limits.attempt: unknown key; did you mean attempts?",
                "FILE, line 4: applications[0].network.alow: unknown key; did you mean allow?",
            ],
        ),
        (
            "[[applications]]\nname = \"a\"\nkeys = [{ id = \"k\", secret = 12345 }]",
            &["FILE, line 3: applications[0].keys.secret: must be a string, found integer"],
        ),
        (
            "[[applications]]\nname = \"a\"\ncodec = \"h265\"\n",
            &["FILE, line 3: applications[0].codec: must be one of h264, vp8; did you mean h264?"],
        ),
        (
            "[[applications]]\nname = \"a\"\n[applications.callbacks.native]\nurl = \"hush-hush\"",
            &["FILE, line 4: applications[0].callbacks.native.url: must be a URL like https://host/path"],
        ),
        (
            "admin_token = { file = \"/nowhere/token\" }",
            &["FILE, line 1: admin_token: cannot read the secret file /nowhere/token: No such file or \
                 directory (os error 2)"],
        ),
        (
            "admin_token = { env = \"NOBODY\" }",
            &["FILE, line 1: admin_token: the environment variable NOBODY is not set"],
        ),
    ];
    for (text, want) in cases {
        assert_eq!(load_text(text, &[]).unwrap_err(), *want, "{text}");
    }
}

#[test]
fn errors_of_rooms_and_storages_name_the_key() {
    for (setting, want) in [
        (
            "room = { type = \"zoom\" }",
            "room.type: must be one of embedded, whip, volcengine, livekit, janus",
        ),
        ("room = \"embedded\"", "room: must be a table, found string"),
        (
            "room = { type = \"whip\", url = \"http://a\", token = 5 }",
            "room.token: must be a string, found integer",
        ),
        ("room = { type = \"livekit\", url = \"ws://a\", key = \"k\" }", "room: the key secret is missing"),
        (
            "room = { type = \"embedded\", pin = \"hush\" }",
            "room: pin does not belong to rooms of this type: remove it",
        ),
        (
            "room = { type = \"whip\", url = \"ftp://a\" }",
            "room.url: cannot use the address of a room's server: only http:, https:, ws: and wss: are \
             supported",
        ),
        (
            "storage.default = { to = \"ftp://a\" }",
            "storage.default.to: cannot keep recordings at ftp://: write a folder, or s3://, gs://, az://, \
             cos://, tos:// or oss:// with a bucket",
        ),
        (
            "storage.default = { to = \"/a\", keys = { access_key = \"a\" } }",
            "storage.default.keys: the key secret_key is missing",
        ),
    ] {
        let errors = load_text(&format!("[[applications]]\nname = \"a\"\n{setting}"), &[]).unwrap_err();
        assert_eq!(errors, [format!("FILE, line 3: applications[0].{want}")]);
    }
}

#[test]
fn errors_in_the_environment_name_the_variable() {
    let environment = [
        ("PAGECAST__CASTS__WARM_BROWSERS", "x"),
        ("PAGECAST__CASTS__CPU_SHARES", "1"),
        ("PAGECAST__LISTEN", "x"),
    ];
    let want = [
        "environment, PAGECAST__CASTS__WARM_BROWSERS: must be written as in the file",
        "environment, PAGECAST__CASTS__CPU_SHARES: casts.cpu_shares: unknown key; did you mean cpu_share?",
        "environment, PAGECAST__LISTEN: listen: invalid socket address syntax",
    ];
    assert_eq!(load_text("", &environment).unwrap_err(), want);
}

#[test]
fn renamed_keys_are_refused_with_their_new_names() {
    let text = "[casts]\nqueue_s = 1\nwarm = 1\nmax_running = 2\n[rooms]\nmedia = \"127.0.0.1:1\"\n\
                [[applications]]\nname = \"a\"\nmax_kept_mib = 1\n[applications.callbacks.native]\n\
                url = \"http://a/\"\nretry_s = 1\n[applications.storage]\nbuckets = \"a\"\n\
                default = { folder = \"/a\" }\n[applications.limits]\nmax_time = 60\nmemory_bytes = 1\n\
                [applications.room.service.live-kit]\nurl = \"ws://a/\"";
    let environment =
        [("PAGECAST__CASTS__SPARE_MEMORY_MIB", "1"), ("PAGECAST__TENCENT__LIMIT_VIDEO", "true")];
    let errors = load_text(text, &environment).unwrap_err();
    for (location, old, new) in [
        ("FILE, line 2", "casts.queue_s", "queue_timeout_s"),
        ("FILE, line 3", "casts.warm", "warm_browsers"),
        ("FILE, line 6", "rooms.media", "media_listen"),
        ("FILE, line 9", "applications[0].max_kept_mib", "max_history_mib"),
        ("FILE, line 12", "applications[0].callbacks.native.retry_s", "extra_retry_s"),
        ("FILE, line 14", "applications[0].storage.buckets", "buckets_dir"),
        ("FILE, line 15", "applications[0].storage.default.folder", "to"),
        ("FILE, line 17", "applications[0].limits.max_time", "max_time_s"),
        ("FILE, line 18", "applications[0].limits.memory_bytes", "memory_mib, in MiB"),
        (
            "FILE, line 19",
            "applications[0].room.service",
            "type, as in { type = \"whip\", url = …, token = … }",
        ),
        ("environment, PAGECAST__CASTS__SPARE_MEMORY_MIB", "casts.spare_memory_mib", "reserved_memory_mib"),
        ("environment, PAGECAST__TENCENT__LIMIT_VIDEO", "tencent.limit_video", "enforce_video_limit"),
    ] {
        let want = format!("{location}: {old}: this key is now called {new}: rename it");
        assert!(errors.contains(&want), "{want} is not in {errors:?}");
    }
    assert_eq!(errors.len(), 12, "{errors:?}");
}

#[test]
fn secrets_are_never_repeated() {
    for text in [
        "admin_token = [\"hush\"]",
        "admin_token = { hush = 1, hush2 = 2 }",
        "[[applications]]\nname = \"a\"\ntokens = \"hush\"",
        "[[applications]]\nname = \"a\"\nkeys = [\"hush\"]",
        "listen = \"hush\"",
        "admin_token = \"hush",
        "[casts]\nwarm_browsers = \"hush\"",
    ] {
        let errors = load_text(text, &[]).unwrap_err();
        let is_redacted = errors.iter().all(|error| !error.replace("hush = 1", "").contains("hush"));
        assert!(is_redacted, "{text}: {errors:?}");
    }
}

#[test]
fn secrets_are_read_from_files() {
    let scratch = ScratchDir::new().unwrap();
    let path = scratch.path().join("secret");
    std::fs::write(&path, "with blanks inside \r\n\n").unwrap();
    let text = format!(
        "admin_token = {{ file = {path:?} }}\n[[applications]]\nname = \"a\"\nkeys = [{{ id = \"k\", secret \
         = {{ file = {path:?} }} }}]"
    );
    let config = load_text(&text, &[]).unwrap();
    assert_eq!(config.admin_token.unwrap().reveal(), "with blanks inside ");
    assert_eq!(config.applications[0].keys[0].secret.reveal(), "with blanks inside ");
    // In other values, `file` is an ordinary key.
    let text = "[[applications]]\nname = \"a\"\napp_id = { file = \"/nowhere\" }";
    let want = "FILE, line 3: applications[0].app_id: must be a string, found map";
    assert_eq!(load_text(text, &[]).unwrap_err(), [want]);
    // Certificates can be read from files, too.
    let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    std::fs::write(&path, certificate).unwrap();
    let text = format!("[[applications]]\nname = \"a\"\nca = {{ file = {path:?} }}");
    let ca = load_text(&text, &[]).unwrap().applications[0].settings.ca.clone();
    assert_eq!(ca.unwrap().as_str(), certificate);
    std::fs::write(&path, "no certificate").unwrap();
    let errors = load_text(&text, &[]).unwrap_err();
    assert!(
        errors[0].contains("applications[0].ca: ") && errors[0].contains("BEGIN CERTIFICATE"),
        "{errors:?}"
    );
    std::fs::write(&path, "\n").unwrap();
    assert!(
        load_text(&format!("admin_token = {{ file = {path:?} }}"), &[]).unwrap_err()[0]
            .ends_with("it is empty")
    );
}

/// Writes a value as TOML, with references to the environment in place of planted secrets.
fn to_toml(key: &str, value: &Value, environment: &mut Vec<(String, String)>) -> String {
    match value {
        Value::Object(object) => {
            let fields = object.iter().filter(|(_, value)| !value.is_null());
            let fields = fields.map(|(key, value)| format!("{key} = {}", to_toml(key, value, environment)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::Array(list) => {
            let items = list.iter().map(|value| to_toml(key, value, environment));
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        Value::String(text) if text.contains("planted") && key != "url" => {
            let name = format!("SECRET_{}", environment.len());
            environment.push((name.clone(), text.clone()));
            format!("{{ env = {name:?} }}")
        }
        other => other.to_string(),
    }
}

#[test]
fn the_file_has_the_settings_of_the_rest_api_and_references_for_all_secrets() {
    let room = json!({"type": "volcengine", "url": "https://a.example/{room}", "app_key": "planted"});
    let janus = json!({
        "type": "janus", "url": "ws://a.example/", "secret": "planted-1", "room_secret": "planted-2",
        "pin": "planted-3",
    });
    let whip = json!({"type": "whip", "url": "https://a.example/{room}", "token": "planted"});
    let livekit = full_settings()["room"].clone();
    for (room, secrets) in [(room, 11), (janus, 13), (whip, 11), (livekit, 11)] {
        let mut settings = full_settings();
        settings["room"] = room;
        settings["limits"]["max_video"] = json!({"width": 1920, "height": 1080});
        let mut app = settings.clone();
        app["name"] = json!("a");
        let mut environment = Vec::new();
        let text = format!("applications = [{}]", to_toml("", &app, &mut environment));
        assert_eq!(environment.len(), secrets);
        let environment: Vec<_> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
        let config = load_text(&text, &environment).unwrap();
        assert_eq!(config.applications[0].settings, serde_json::from_value(settings).unwrap());
    }
}

#[test]
fn a_named_file_must_exist() {
    let options = Options { file: Some("/nowhere/pagecast.toml".into()), ..Options::default() };
    let error = load(&options, &[]).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the configuration file /nowhere/pagecast.toml");
    assert_eq!(load(&Options::default(), &[]).unwrap(), Config::default());
}

#[test]
fn the_example_is_valid() {
    let example = super::reference::PREAMBLE.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let scratch = ScratchDir::new().unwrap();
    let (certificate, key) = pagecast_testkit::tls::self_signed_certificate(scratch.path()).unwrap();
    let example = example
        .replace("{ file = \"/run/credentials/pagecast/admin-token\" }", "{ env = \"TOKEN\" }")
        .replace("/etc/pagecast/chain.pem", certificate.to_str().unwrap())
        .replace("/etc/pagecast/key.pem", key.to_str().unwrap());
    let secret = "0123456789abcdef0123";
    let environment = ["TOKEN", "ROOMS_SECRET", "SHOP_SECRET", "SHOP_CALLBACK_SECRET", "SHOP_LIVEKIT_SECRET"]
        .map(|name| (name, secret));
    let config = load_text(&example, &environment).unwrap();
    assert_eq!(config.validate(), []);
    assert_eq!(config.applications[0].settings.callbacks.volcengine.as_ref().unwrap().extra_retry_s, 86_400);
}

#[test]
fn proxies_are_addresses_and_networks() {
    let environment = [("PAGECAST__LIMITS__TRUSTED_PROXIES", r#"["10.0.0.0/8", "::1"]"#)];
    let limits = load_text("[limits]\nconnections = 200\n", &environment).unwrap().limits;
    assert_eq!(limits.trusted_proxies, ["10.0.0.0/8", "::1"].map(|text| text.parse().unwrap()));
    let listener = limits.listener_limits();
    assert_eq!((listener.max_connections, listener.max_connections_per_address), (200, 256));
    assert_eq!(listener.trusted_proxies, limits.trusted_proxies);
    let error = "proxy.example".parse::<Subnet>().unwrap_err();
    let text = "[limits]\ntrusted_proxies = [\"10.0.0.0/8\", \"proxy.example\"]";
    let want = format!("FILE, line 2: limits.trusted_proxies: {error}");
    assert_eq!(load_text(text, &[]).unwrap_err(), [want]);
}

#[test]
fn the_defaults_are_valid() {
    assert_eq!(Config::default().validate(), []);
}

#[test]
fn invalid_values_are_found() {
    let cases: &[(&str, bool, &str)] = &[
        ("listen = \"0.0.0.0:80\"", true, "listen: this address is reachable from other machines, but"),
        ("listen = \"[::]:80\"", false, "listen: this address is reachable from other machines without"),
        (
            "[tls]\ncertificate = \"/nowhere\"\nkey = \"/nowhere\"",
            true,
            "tls: cannot read the certificate /nowhere",
        ),
        ("admin_token = \"short\"", true, "admin_token: must have at least 16"),
        ("admin_token = \"aaaaaaaaaaaaaaaaaaaaaaa\"", false, "admin_token: this token can be guessed"),
        ("[rooms]\nlisten = \"127.0.0.1:8080\"", true, "rooms.listen: must differ from listen"),
        ("[rooms]\nlisten = \"0.0.0.0:8080\"", true, "rooms.listen: must differ from listen"),
        ("[rooms]\nlisten = \"0.0.0.0:1\"", true, "rooms.secret: required"),
        ("listen = \"0.0.0.0:80\"", true, "rooms.secret: required"),
        ("listen = \"0.0.0.0:80\"", false, "rooms.public_url: viewers get"),
        ("listen = \"0.0.0.0:80\"", false, "rooms.media_listen: viewers on other machines"),
        ("[rooms]\nsecret = \"short\"", true, "rooms.secret: must have at least 16"),
        ("[rooms]\nlisten = \"0.0.0.0:1\"", false, "rooms.media_listen: viewers on other machines"),
        ("[rooms]\nannounced_addresses = [\"0.0.0.0:1\"]", true, "rooms.announced_addresses:"),
        ("[rooms]\npublic_url = \"https://rooms.example.com\"", true, "rooms.secret:"),
        ("[rooms]\npublic_url = \"rooms.example.com\"", true, "rooms.public_url:"),
        ("[rooms]\nmax_rooms = 0", true, "rooms.max_rooms: 0 is out of range"),
        ("[rooms]\nmax_viewers_per_application = 20000", true, "rooms.max_viewers_per_application: 20000"),
        ("[casts]\ncpu_share = 0.05", true, "casts.cpu_share: must be 0.1 to 16"),
        ("[casts]\ncpu_share = nan", true, "casts.cpu_share: must be 0.1 to 16"),
        ("[casts]\nretention_h = 71", true, "casts.retention_h: must be 72"),
        ("[casts]\nmax_running = 0", true, "casts.max_running:"),
        ("[casts]\nbrowser_uids = [0, 70000]", true, "casts.browser_uids: must be the first"),
        ("[casts]\nbrowser_uids = [3000, 2000]", true, "casts.browser_uids: must be the first"),
        ("[casts]\nmin_free_disk_mib = 1073741824", true, "casts.min_free_disk_mib: must be less than"),
        ("[casts]\nmax_queued_casts = 0", true, "casts.max_queued_casts:"),
        ("[casts]\nqueue_timeout_s = 604801", true, "casts.queue_timeout_s:"),
        ("[casts]\nmax_queue_timeout_s = 86401", true, "casts.max_queue_timeout_s:"),
        ("[casts]\nmax_database_mib = 63", true, "casts.max_database_mib: must be 64"),
        ("[tencent]\nmin_duration_s = 86401", true, "tencent.min_duration_s:"),
        ("[limits]\nconnections = 127", true, "limits.connections: must be 128 to 100000"),
        ("[limits]\nconnections_per_address = 0", true, "limits.connections_per_address:"),
        ("[limits]\nrequests_per_s = 0", true, "limits.requests_per_s:"),
        ("[tencent]\nmax_duration_s = 86401", true, "tencent.max_duration_s:"),
        ("[tencent]\nmax_duration_s = 1799", true, "tencent.max_duration_s:"),
        ("[tencent]\nmin_duration_s = 0\nmax_duration_s = 9", true, "tencent.max_duration_s:"),
    ];
    for (text, fatal, want) in cases {
        assert_finding(text, *fatal, want);
    }
}

#[test]
fn rooms_on_loopback_or_switched_off_need_no_secret() {
    for rooms in ["listen = \"127.0.0.1:81\"", "enabled = false"] {
        let text = format!("listen = \"0.0.0.0:80\"\n[rooms]\n{rooms}");
        let found = load_text(&text, &[]).unwrap().validate();
        assert!(!found.iter().any(|finding| finding.key.starts_with("rooms.")), "{rooms}: {found:?}");
    }
}

fn assert_finding(text: &str, fatal: bool, want: &str) {
    let found = load_text(text, &[]).unwrap().validate();
    let hit = found.iter().any(|f| f.fatal == fatal && f.to_string().starts_with(want));
    assert!(hit, "{text}: {want} is not in {found:?}");
    assert!(found.is_sorted_by_key(|f| !f.fatal), "{found:?}");
}

#[test]
fn conflicting_applications_are_found() {
    for (applications, fatal, want) in [
        ("{name = 'a'}, {name = 'a'}", true, "a: name: application a uses the same"),
        (
            "{name = 'a', app_id = 'x'}, {name = 'b', app_id = 'x'}",
            true,
            "b: app_id: application a uses the same",
        ),
        (
            "{name = 'a', sdk_app_id = 1}, {name = 'b', sdk_app_id = 1}",
            true,
            "b: sdk_app_id: application a uses the same",
        ),
        (
            "{name = 'a', tokens = ['LONG']}, {name = 'b', tokens = ['LONG']}",
            true,
            "b: tokens: application a uses the same",
        ),
        ("{name = 'a', tokens = ['short']}", true, "a: tokens[0]: must be 16 to 256"),
        ("{name = 'a', tokens = ['ADMIN']}", true, "a: tokens: a token must differ from admin_token"),
        (
            "{name = 'a', keys = [{id = 'k', secret = 'x'}]}, {name = 'b', keys = [{id = 'k', secret = \
             'y'}]}",
            true,
            "b: keys: application a has a different secret for k",
        ),
        ("{name = 'a', keys = [{id = 'k', secret = 'x'}]}", false, "a: keys: the secret of k can be guessed"),
        ("{name = 'a'}, {name = 'b', app_id = 'a'}", true, "b: app_id: application a uses the same value"),
        (
            "{name = 'a', limits = {max_time_s = 1}}",
            true,
            "a: limits.max_time_s: 1 is out of range: must be 10 to 86400",
        ),
        (
            "{name = 'a', limits = {cpu_weight = 0}}",
            true,
            "a: limits.cpu_weight: 0 is out of range: must be 1 to 10000",
        ),
        ("{name = 'a'}", false, "a: keys: the application has no enabled key and no token"),
        ("{name = 'a', keys = [{id = 'k', secret = 'LONG'}]}", false, "a: keys: keys need an app_id"),
    ] {
        let text = format!("admin_token = 'ADMIN'\napplications = [{applications}]");
        let text = text.replace("LONG", "0123456789abcdef").replace("ADMIN", "fedcba9876543210");
        assert_finding(&text, fatal, &format!("application {want}"));
    }
}

#[test]
fn applications_may_share_an_access_key() {
    let text = "applications = [{name = \"a\", app_id = \"a\", keys = [{id = \"k\", secret = \
                \"0123456789abcdef\"}]}, \
                {name = \"b\", app_id = \"b\", keys = [{id = \"k\", secret = \"0123456789abcdef\"}]}]";
    assert_eq!(load_text(text, &[]).unwrap().validate(), []);
}

#[test]
fn demo_credentials_are_generated_once() {
    let scratch = ScratchDir::new().unwrap();
    let data = scratch.path().join("new/data");
    let (first, is_new) = demo_application(&data).unwrap();
    assert!(is_new);
    assert_eq!(
        (first.settings.app_id.as_deref(), first.settings.sdk_app_id),
        (Some("demo"), Some(1_400_000_001))
    );
    assert!(first.keys[0].secret.reveal().len() == 40 && first.tokens[0].reveal().len() == 40);
    assert_eq!(first.settings.network, pagecast_core::spec::NetworkPolicy::default());
    let (again, is_new) = demo_application(&data).unwrap();
    assert!(!is_new && again == first);
    let file = data.join("credentials.json");
    let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1, "no temporary file is left");
    mode(0o640);
    assert!(demo_application(&data).unwrap_err().to_string().contains("chmod 600"));
    mode(0o600);
    std::fs::write(&file, "{\"hush\": 1}").unwrap();
    let error = demo_application(&data).unwrap_err().to_string();
    assert!(error.contains("is damaged") && !error.contains("hush"), "{error}");
}
