use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use pagecast_testkit::ScratchDir;
use proptest::prelude::*;

use super::*;

fn vault(byte: u8) -> Vault {
    Vault::from_text(&STANDARD.encode([byte; KEY_LEN])).unwrap()
}

proptest! {
    #[test]
    fn a_value_is_opened_only_in_its_context_with_its_key(bytes: Vec<u8>, context: String, other: String) {
        let sealed = vault(1).seal(&context, &bytes);
        prop_assert_eq!(vault(1).open(&context, &sealed).unwrap(), bytes);
        prop_assert!(matches!(vault(2).open(&context, &sealed), Err(Error::Decrypt)));
        if other != context {
            prop_assert!(matches!(vault(1).open(&other, &sealed), Err(Error::Decrypt)));
        }
    }

    #[test]
    fn anything_else_is_refused(bytes: Vec<u8>) {
        prop_assert!(vault(1).open("", &bytes).is_err());
    }
}

#[test]
fn any_changed_bit_is_detected() {
    let sealed = vault(1).seal("cast/1", b"secret");
    assert!(!sealed.windows(6).any(|part| part == b"secret"));
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut changed = sealed.clone();
            changed[at] ^= 1 << bit;
            assert!(vault(1).open("cast/1", &changed).is_err(), "bit {bit} of byte {at}");
        }
        assert!(vault(1).open("cast/1", &sealed[..at]).is_err(), "the first {at} bytes");
    }
    assert_ne!(sealed, vault(1).seal("cast/1", b"secret"), "equal values are sealed differently");
}

#[test]
fn a_later_format_is_reported() {
    let mut sealed = vault(1).seal("", b"");
    sealed[0] = 2;
    assert!(matches!(vault(1).open("", &sealed), Err(Error::UnknownFormat(2))));
}

#[test]
fn invalid_keys_are_refused() {
    for text in ["", "abc", "AAAA", &STANDARD.encode([0; 31]), &STANDARD.encode([0; 33]), &"A".repeat(10_000)]
    {
        assert!(matches!(Vault::from_text(text), Err(Error::InvalidKey)), "{text}");
    }
    assert!(Vault::from_text(&format!("  {}\n", STANDARD.encode([0; 32]))).is_ok());
    assert_eq!(format!("{:?}", vault(b'k')), "Vault(…)");
}

#[test]
fn a_key_file_is_created_once_and_kept() {
    let scratch = ScratchDir::new().unwrap();
    let path = scratch.join("a/b/fleet.key");
    let sealed = Vault::from_file(&path).unwrap().seal("here", b"secret");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Vault::from_file(&path).unwrap().open("here", &sealed).unwrap(), b"secret");
    let names: Vec<_> = fs::read_dir(scratch.join("a/b")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["fleet.key"], "nothing is left beside it");
}

#[test]
fn concurrent_creations_yield_one_key() {
    let scratch = ScratchDir::new().unwrap();
    let path = scratch.join("fleet.key");
    let sealed: Vec<_> = std::thread::scope(|scope| {
        let one = || scope.spawn(|| Vault::from_file(&path).unwrap().seal("", b"x"));
        let all: Vec<_> = (0..16).map(|_| one()).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let vault = Vault::from_file(&path).unwrap();
    assert!(sealed.iter().all(|sealed| vault.open("", sealed).is_ok()));
}

#[test]
fn unsafe_or_damaged_key_files_are_refused() {
    let scratch = ScratchDir::new().unwrap();
    let path = scratch.join("fleet.key");
    Vault::from_file(&path).unwrap();
    for mode in [0o640, 0o604, 0o620, 0o777] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = Vault::from_file(&path).unwrap_err();
        assert!(
            matches!(error, Error::InsecurePermissions(_)) && error.to_string().contains("chmod 600"),
            "{error}"
        );
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    for bytes in [&b""[..], b"\n", b"\xff\xfe", b"not base64 at all", b"AAAA", &[b'A'; 5000]] {
        fs::write(&path, bytes).unwrap();
        let error = Vault::from_file(&path).unwrap_err();
        assert!(matches!(error, Error::InvalidKeyFile(_)) && error.to_string().contains("backup"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "the file is not changed");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    assert!(matches!(Vault::from_file(&path), Err(Error::InvalidKeyFile(_))));
    assert!(matches!(Vault::from_file(&scratch.join("fleet.key/\0")), Err(Error::File { .. })));
}
