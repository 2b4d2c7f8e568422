use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use pagecast_testkit::ScratchDir;

use super::*;

/// What comes of this file, this environment and no flags; the problems, with the file called `FILE`.
fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let scratch = ScratchDir::new().unwrap();
    let file = scratch.path().join("pagecast.toml");
    std::fs::write(&file, text).unwrap();
    let environment: Vec<_> = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let options = Options { file: Some(file.clone()), ..Options::default() };
    load(&options, &environment).map_err(|error| match error {
        Error::Invalid(wrong) => wrong.iter().map(|w| w.replace(file.to_str().unwrap(), "FILE")).collect(),
        Error::Read(..) => panic!("{error}"),
    })
}

#[test]
fn file_then_environment_then_flags() {
    let scratch = ScratchDir::new().unwrap();
    let file = scratch.path().join("a.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:1\"\ndata = \"a\"\n[casts]\nqueue_s = 1\nwarm = 1\n")
        .unwrap();
    let environment =
        [("PAGECAST__LISTEN", "127.0.0.1:2"), ("PAGECAST__CASTS__QUEUE_S", "2"), ("OTHER", "x")];
    let environment = environment.map(|(n, v)| (n.to_owned(), v.to_owned()));
    let options = Options { file: Some(file), listen: Some("127.0.0.1:3".parse().unwrap()), data: None };
    let config = load(&options, &environment).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.data, PathBuf::from("a"));
    assert_eq!((config.casts.queue_s, config.casts.warm, config.casts.max), (2, 1, 1000));
}

#[test]
fn variables_are_text_where_text_is_wanted() {
    let environment = [
        ("PAGECAST_ADMIN_TOKEN", "1234567890123456"),
        ("PAGECAST_SECRET_KEY", "true"),
        ("PAGECAST__VOLCENGINE__REGIONS", r#"["cn-north-1"]"#),
        ("PAGECAST__VOLCENGINE__STRICT_REPEAT", "true"),
        ("PAGECAST__TLS__CERTIFICATE", "1"),
        ("PAGECAST__TLS__KEY", "k"),
        ("PAGECAST__ROOMS__SECRET", r#"{ env = "ELSEWHERE" }"#),
        ("PAGECAST__APPLICATIONS", r#"[{ name = "a", tokens = [{ env = "ELSEWHERE" }] }]"#),
        ("ELSEWHERE", "from elsewhere"),
    ];
    let config = load_text("", &environment).unwrap();
    assert_eq!(config.admin_token.unwrap().reveal(), "1234567890123456");
    assert_eq!(config.secret_key.unwrap().reveal(), "true");
    assert_eq!(config.volcengine, Volcengine { strict_repeat: true, regions: vec!["cn-north-1".into()] });
    assert_eq!(config.tls.unwrap().certificate, PathBuf::from("1"));
    assert_eq!(config.rooms.secret.unwrap().reveal(), "from elsewhere");
    assert_eq!(config.applications[0].tokens[0].reveal(), "from elsewhere");
}

#[test]
fn all_errors_are_reported_at_once_with_their_places() {
    let cases: &[(&str, &[&str])] = &[
        ("liste = 1", &["FILE, line 1: liste: there is no such key; perhaps listen?"]),
        (
            "\n[casts]\nqueue_seconds = 1\n[tencent]\nregion = []",
            &[
                "FILE, line 3: casts.queue_seconds: there is no such key; there are queue_s, max_queue_s, queue_limit, cpu_share, spare_memory_mib, spare_disk_mib, browser_uids, max, warm, drain_s, storage_patience_s, history_h, history_mib",
                "FILE, line 5: tencent.region: there is no such key; perhaps regions?",
            ],
        ),
        ("[casts]\nwarm = \"many\"", &["FILE, line 2: casts.warm: usize is wanted, and this is: string"]),
        ("listen = \"here\"", &["FILE, line 1: listen: invalid socket address syntax"]),
        ("a = 1\na = 2", &["FILE, line 2: duplicate key"]),
        ("x = [", &["FILE, line 1: unclosed array, expected `]`"]),
        ("applications = 1", &["FILE, line 1: applications: a list is wanted: write [[applications]]"]),
        (
            "[[applications]]\nname = \"a\"\n[[applications]]\nname = \"b\"\ntoken = []\n[[applications]]\nmax_casts = 1",
            &[
                "FILE, line 5: applications[1].token: there is no such key; perhaps tokens?",
                "FILE, line 6: applications[2]: name is missing",
            ],
        ),
        (
            "[[applications]]\nname = \"a\"\n[applications.network]\nalow = []\n[applications.limits]\nattempt = 1",
            &[
                "FILE, line 6: applications[0].limits.attempt: there is no such key; perhaps attempts?",
                "FILE, line 4: applications[0].network.alow: there is no such key; perhaps allow?",
            ],
        ),
        (
            "[[applications]]\nname = \"a\"\nkeys = [{ id = \"k\", secret = 12345 }]",
            &["FILE, line 3: applications[0].keys.secret: a string is wanted, and this is: integer"],
        ),
        (
            "[[applications]]\nname = \"a\"\ncodec = \"h265\"\n",
            &["FILE, line 3: applications[0].codec: one of h264, vp8 is wanted; perhaps h264?"],
        ),
        (
            "[[applications]]\nname = \"a\"\n[applications.callbacks.native]\nurl = \"hush-hush\"",
            &["FILE, line 4: applications[0].callbacks.native.url: relative URL without a base"],
        ),
        (
            "[limits]\ntrusted_proxies = [\"10.0.0.0/8\", \"proxy.example\"]",
            &[
                "FILE, line 2: limits.trusted_proxies: an address or a network like 10.0.0.0/8 or fd00::/8 is wanted",
            ],
        ),
        (
            "admin_token = { file = \"/nowhere/token\" }",
            &[
                "FILE, line 1: admin_token: cannot read the secret in /nowhere/token: No such file or directory (os error 2)",
            ],
        ),
        (
            "admin_token = { env = \"NOBODY\" }",
            &["FILE, line 1: admin_token: there is no variable NOBODY in the environment"],
        ),
    ];
    for (text, want) in cases {
        assert_eq!(load_text(text, &[]).unwrap_err(), *want, "{text}");
    }
    let environment =
        [("PAGECAST__CASTS__WARM", "x"), ("PAGECAST__CASTS__MAXX", "1"), ("PAGECAST__LISTEN", "x")];
    let want = [
        "environment, PAGECAST__CASTS__WARM: write the value as it would stand in the file",
        "environment, PAGECAST__CASTS__MAXX: casts.maxx: there is no such key; perhaps max?",
        "environment, PAGECAST__LISTEN: listen: invalid socket address syntax",
    ];
    assert_eq!(load_text("", &environment).unwrap_err(), want);
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
        "[casts]\nwarm = \"hush\"",
    ] {
        let wrong = load_text(text, &[]).unwrap_err();
        let keys_only = wrong.iter().all(|w| !w.replace("hush = 1", "").contains("hush"));
        assert!(keys_only, "{text}: {wrong:?}");
    }
}

#[test]
fn secrets_may_be_in_files_of_their_own() {
    let scratch = ScratchDir::new().unwrap();
    let place = scratch.path().join("secret");
    std::fs::write(&place, "with blanks inside \r\n\n").unwrap();
    let text = format!(
        "admin_token = {{ file = {place:?} }}\n[[applications]]\nname = \"a\"\nkeys = [{{ id = \"k\", secret = {{ file = {place:?} }} }}]"
    );
    let config = load_text(&text, &[]).unwrap();
    assert_eq!(config.admin_token.unwrap().reveal(), "with blanks inside ");
    assert_eq!(config.applications[0].keys[0].secret.reveal(), "with blanks inside ");
    // Elsewhere these words mean something else.
    let text = "[[applications]]\nname = \"a\"\n[applications.storage]\ndefault = { folder = \"/recordings\" }\n[applications.limits]\nmax_time = 3600";
    let config = load_text(text, &[]).unwrap();
    assert_eq!(config.applications[0].limits.max_time, std::time::Duration::from_secs(3600));
    // Certificates are kept in files as well.
    let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    std::fs::write(&place, certificate).unwrap();
    let text = format!("[[applications]]\nname = \"a\"\nca = {{ file = {place:?} }}");
    let ca = load_text(&text, &[]).unwrap().applications[0].ca.clone();
    assert_eq!(ca.unwrap().as_str(), certificate);
    std::fs::write(&place, "no certificate").unwrap();
    let wrong = load_text(&text, &[]).unwrap_err();
    assert!(wrong[0].contains("applications[0].ca: ") && wrong[0].contains("BEGIN CERTIFICATE"), "{wrong:?}");
    std::fs::write(&place, "\n").unwrap();
    assert!(
        load_text(&format!("admin_token = {{ file = {place:?} }}"), &[]).unwrap_err()[0]
            .ends_with("it is empty")
    );
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let options = Options { file: Some("/nowhere/pagecast.toml".into()), ..Options::default() };
    let error = load(&options, &[]).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the configuration /nowhere/pagecast.toml");
    assert_eq!(load(&Options::default(), &[]).unwrap(), Config::default());
}

#[test]
fn the_example_is_sound() {
    let example = super::reference::PREAMBLE.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let scratch = ScratchDir::new().unwrap();
    let (certificate, key) = pagecast_testkit::tls::self_signed_certificate(scratch.path()).unwrap();
    let example = example
        .replace("{ file = \"/run/credentials/pagecast/admin-token\" }", "{ env = \"TOKEN\" }")
        .replace("/etc/pagecast/chain.pem", certificate.to_str().unwrap())
        .replace("/etc/pagecast/key.pem", key.to_str().unwrap());
    let secret = "0123456789abcdef0123";
    let environment = ["TOKEN", "SHOP_SECRET", "SHOP_CALLBACK_SECRET"].map(|name| (name, secret));
    let config = load_text(&example, &environment).unwrap();
    assert_eq!(config.validate(), []);
    assert_eq!(config.applications[0].callbacks.volcengine.as_ref().unwrap().retry_s, 86_400);
}

#[test]
fn proxies_are_addresses_and_networks() {
    let environment = [("PAGECAST__LIMITS__TRUSTED_PROXIES", r#"["10.0.0.0/8", "::1"]"#)];
    let limits = load_text("[limits]\nconnections = 200\n", &environment).unwrap().limits;
    assert_eq!(limits.trusted_proxies, ["10.0.0.0/8", "::1"].map(|text| text.parse().unwrap()));
    let listener = limits.listener_limits();
    assert_eq!((listener.max_connections, listener.max_connections_per_address), (200, 256));
    assert_eq!(listener.trusted_proxies, limits.trusted_proxies);
}

#[test]
fn the_usual_values_are_sound() {
    assert_eq!(Config::default().validate(), []);
}

#[test]
fn what_cannot_be_is_found() {
    let cases: &[(&str, bool, &str)] = &[
        ("listen = \"0.0.0.0:80\"", true, "listen: others can reach it, and there is no application"),
        ("listen = \"[::]:80\"", false, "listen: others can reach it and nothing is encrypted"),
        ("[tls]\ncertificate = \"/nowhere\"\nkey = \"/nowhere\"", true, "tls: cannot read /nowhere"),
        ("admin_token = \"short\"", true, "admin_token: at least 16"),
        ("admin_token = \"aaaaaaaaaaaaaaaaaaaaaaa\"", false, "admin_token: it can be guessed"),
        ("[rooms]\nlisten = \"127.0.0.1:8080\"", true, "rooms.listen: it is where the APIs listen"),
        ("[rooms]\nlisten = \"0.0.0.0:8080\"", true, "rooms.listen: it is where the APIs listen"),
        ("[rooms]\nlisten = \"0.0.0.0:1\"", true, "rooms.secret: it is needed"),
        ("[rooms]\nsecret = \"short\"", true, "rooms.secret: at least 16"),
        ("[rooms]\nlisten = \"0.0.0.0:1\"", false, "rooms.media: viewers elsewhere"),
        ("[rooms]\naddresses = [\"0.0.0.0:1\"]", true, "rooms.addresses:"),
        ("[rooms]\npublic_url = \"https://rooms.example.com\"", true, "rooms.secret:"),
        ("[rooms]\npublic_url = \"rooms.example.com\"", true, "rooms.public_url:"),
        ("[rooms]\nmax_rooms = 0", true, "rooms.max_rooms: 0 is not possible"),
        ("[rooms]\nmax_viewers_per_application = 20000", true, "rooms.max_viewers_per_application: 20000"),
        ("[casts]\ncpu_share = 0.05", true, "casts.cpu_share: 0.1 to 16"),
        ("[casts]\ncpu_share = nan", true, "casts.cpu_share: 0.1 to 16"),
        ("[casts]\nhistory_h = 71", true, "casts.history_h: 72"),
        ("[casts]\nmax = 0", true, "casts.max:"),
        ("[casts]\nbrowser_uids = [0, 70000]", true, "casts.browser_uids: two user ids from 1000 on"),
        ("[casts]\nbrowser_uids = [3000, 2000]", true, "casts.browser_uids: two user ids from 1000 on"),
        ("[casts]\nspare_disk_mib = 1073741824", true, "casts.spare_disk_mib: less than"),
        ("[casts]\nqueue_limit = 0", true, "casts.queue_limit:"),
        ("[casts]\nqueue_s = 604801", true, "casts.queue_s:"),
        ("[casts]\nmax_queue_s = 86401", true, "casts.max_queue_s:"),
        ("[casts]\nhistory_mib = 63", true, "casts.history_mib: 64"),
        ("[tencent]\nmin_duration_s = 86401", true, "tencent.min_duration_s:"),
        ("[limits]\nconnections = 127", true, "limits.connections: 128 to 100000"),
        ("[limits]\nconnections_per_address = 0", true, "limits.connections_per_address:"),
        ("[limits]\nrequests_per_s = 0", true, "limits.requests_per_s:"),
        ("[tencent]\nmax_duration_s = 86401", true, "tencent.max_duration_s:"),
        ("[tencent]\nmax_duration_s = 1799", true, "tencent.max_duration_s:"),
        ("[tencent]\nmin_duration_s = 0\nmax_duration_s = 9", true, "tencent.max_duration_s:"),
    ];
    for (text, grave, want) in cases {
        assert_finding(text, *grave, want);
    }
}

fn assert_finding(text: &str, grave: bool, want: &str) {
    let found = load_text(text, &[]).unwrap().validate();
    let hit = found.iter().any(|f| f.fatal == grave && f.text.starts_with(want));
    assert!(hit, "{text}: {want} is not in {found:?}");
    assert!(found.is_sorted_by_key(|f| !f.fatal), "{found:?}");
}

#[test]
fn applications_that_cannot_be_told_apart_are_found() {
    for (applications, grave, want) in [
        ("{name = 'a'}, {name = 'a'}", true, "a: name: a has the same"),
        ("{name = 'a', app_id = 'x'}, {name = 'b', app_id = 'x'}", true, "b: app_id: a has the same"),
        ("{name = 'a', sdk_app_id = 1}, {name = 'b', sdk_app_id = 1}", true, "b: sdk_app_id: a has the same"),
        (
            "{name = 'a', tokens = ['LONG']}, {name = 'b', tokens = ['LONG']}",
            true,
            "b: a token: a has the same",
        ),
        ("{name = 'a', tokens = ['short']}", true, "a: tokens[0]: 16 to 256"),
        ("{name = 'a', tokens = ['ADMIN']}", true, "a: tokens: one is the administrator's"),
        (
            "{name = 'a', keys = [{id = 'k', secret = 'x'}]}, {name = 'b', keys = [{id = 'k', secret = 'y'}]}",
            true,
            "b: keys: k has another secret in a",
        ),
        ("{name = 'a', keys = [{id = 'k', secret = 'x'}]}", false, "a: keys: the secret of k can be guessed"),
        ("{name = 'a'}, {name = 'b', app_id = 'a'}", true, "b.app_id: another application has it"),
        ("{name = 'a', limits = {max_time = 1}}", true, "a: limits: "),
        ("{name = 'a'}", false, "a: it has neither a key nor a token"),
        ("{name = 'a', keys = [{id = 'k', secret = 'LONG'}]}", false, "a: its keys are of no use"),
    ] {
        let text = format!("admin_token = 'ADMIN'\napplications = [{applications}]");
        let text = text.replace("LONG", "0123456789abcdef").replace("ADMIN", "fedcba9876543210");
        assert_finding(&text, grave, &format!("application {want}"));
    }
}

#[test]
fn two_applications_may_share_a_pair() {
    let text = "applications = [{name = \"a\", app_id = \"a\", keys = [{id = \"k\", secret = \"0123456789abcdef\"}]}, \
                {name = \"b\", app_id = \"b\", keys = [{id = \"k\", secret = \"0123456789abcdef\"}]}]";
    assert_eq!(load_text(text, &[]).unwrap().validate(), []);
}

#[test]
fn keys_of_the_demo_are_made_once() {
    let scratch = ScratchDir::new().unwrap();
    let data = scratch.path().join("new/data");
    let (first, made) = demo_application(&data).unwrap();
    assert!(made);
    assert_eq!((first.app_id.as_deref(), first.sdk_app_id), (Some("demo"), Some(1_400_000_001)));
    assert!(first.keys[0].secret.reveal().len() == 40 && first.tokens[0].reveal().len() == 40);
    assert_eq!(first.network, pagecast_core::spec::NetworkPolicy::default());
    let (again, made) = demo_application(&data).unwrap();
    assert!(!made && again == first);
    let file = data.join("credentials.json");
    let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1, "nothing else is left");
    mode(0o640);
    assert!(demo_application(&data).unwrap_err().to_string().contains("chmod 600"));
    mode(0o600);
    std::fs::write(&file, "{\"hush\": 1}").unwrap();
    let error = demo_application(&data).unwrap_err().to_string();
    assert!(error.contains("is damaged") && !error.contains("hush"), "{error}");
}
