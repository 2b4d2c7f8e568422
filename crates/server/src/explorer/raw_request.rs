//! HTTP requests as text, as people paste them.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::RequestId;
use crate::route::{ApiRequest, HashedBody};

/// Longest text that is parsed, in bytes: the largest body of a webcast, and a head of the same size.
pub(crate) const MAX_LEN: usize = 128 << 10;
/// Most headers of a request.
const MAX_HEADERS: usize = 100;

/// A request, and what is unusual about it.
#[derive(Debug)]
pub(crate) struct RawRequest {
    pub(crate) call: ApiRequest,
    /// Path of the request, without its query.
    pub(crate) path: String,
    /// Length that the header `Content-Length` states, if it is another than that of the body.
    pub(crate) stated_len: Option<usize>,
}

/// Parses a request line, headers, an empty line and a body. Lines may end with or without a carriage return.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn parse(text: &str) -> Result<RawRequest, String> {
    if text.len() > MAX_LEN {
        return Err(format!("the request has {} bytes: the limit is {MAX_LEN}", text.len()));
    }
    let text = text.trim_start();
    let (head, body) = split_head(text);
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let mut words = first.split_ascii_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(
            "the first line must be like: POST /?Action=StartWebcast&Version=2020-12-01 HTTP/1.1".into()
        );
    };
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    let method = Some(method).filter(|_| is_method).and_then(|method| method.parse::<Method>().ok());
    let method = method.ok_or("the first line must begin with a method, like POST or GET")?;
    if words.next().is_some_and(|version| !version.starts_with("HTTP/")) || words.next().is_some() {
        return Err("the first line has a space in its address: it must be percent-encoded".into());
    }
    let (path, query, host) = split_target(target)?;
    let mut headers = parse_headers(lines)?;
    if let Some(host) = host
        && !headers.contains_key("host")
        && let Ok(host) = HeaderValue::from_str(host)
    {
        headers.insert("host", host);
    }
    let stated_len =
        headers.get("content-length").and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let body = trim_body(body, stated_len);
    Ok(RawRequest {
        path: path.to_owned(),
        stated_len: stated_len.filter(|len| *len != body.len()),
        call: ApiRequest {
            id: RequestId::random(),
            method,
            query: query.to_owned(),
            headers,
            body: HashedBody::from(bytes::Bytes::copy_from_slice(body.as_bytes())),
        },
    })
}

/// Splits a request at its first empty line.
fn split_head(text: &str) -> (&str, &str) {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_end_matches(['\r', '\n']).is_empty() {
            return (&text[..at], &text[at + line.len()..]);
        }
        at += line.len();
    }
    (text, "")
}

/// Path, query and, of a whole URL, host.
fn split_target(target: &str) -> Result<(&str, &str, Option<&str>), String> {
    let after_scheme = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://"));
    let (host, rest) = match after_scheme {
        None => (None, target),
        Some(rest) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
    };
    if !rest.is_empty() && !rest.starts_with(['/', '?']) {
        return Err("the address in the first line must begin with /, http:// or https://".into());
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok((if path.is_empty() { "/" } else { path }, query, host))
}

fn parse_headers<'a>(lines: impl Iterator<Item = &'a str>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (index, line) in lines.enumerate() {
        if index >= MAX_HEADERS {
            return Err(format!("the request has more than {MAX_HEADERS} headers"));
        }
        let malformed = || format!("line {} is not a header: it must be like Name: value", index + 2);
        let (name, value) = line.split_once(':').ok_or_else(malformed)?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed())?;
        headers.append(name, HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| malformed())?);
    }
    Ok(headers)
}

/// The body without the line break that a copied text often has at its end.
fn trim_body(body: &str, stated_len: Option<usize>) -> &str {
    match stated_len {
        Some(len) if len <= body.len() && body.is_char_boundary(len) && body[len..].trim().is_empty() => {
            &body[..len]
        }
        Some(_) => body,
        None => body.strip_suffix("\r\n").or_else(|| body.strip_suffix('\n')).unwrap_or(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_parsed() {
        for end in ["\n", "\r\n"] {
            let text = ["", "POST /?a=1&b=%20 HTTP/1.1", "Host: x:80", "X-Two:  2 ", "", "{\"a\":1}", ""];
            let parsed = parse(&text.join(end)).unwrap();
            assert_eq!((parsed.call.method.as_str(), parsed.call.query.as_str()), ("POST", "a=1&b=%20"));
            assert_eq!((parsed.call.header("host"), parsed.call.header("x-two")), (Some("x:80"), Some("2")));
            assert_eq!((&parsed.call.body[..], parsed.path.as_str()), (&b"{\"a\":1}"[..], "/"));
        }
        let parsed = parse("GET http://a.example:81?x=1 HTTP/1.1\nAccept: */*").unwrap();
        assert_eq!((parsed.call.query.as_str(), parsed.call.header("host")), ("x=1", Some("a.example:81")));
        let parsed = parse("POST /v2\nContent-Length: 3\n\nabc\n\n").unwrap();
        assert_eq!(
            (&parsed.call.body[..], parsed.stated_len, parsed.path.as_str()),
            (&b"abc"[..], None, "/v2")
        );
        let parsed = parse("POST /\nContent-Length: 9\n\nabc").unwrap();
        assert_eq!(parsed.stated_len, Some(9));
    }

    #[test]
    fn other_texts_are_refused() {
        let many = format!("GET / HTTP/1.1\n{}", "A: b\n".repeat(101));
        let long = "G".repeat(MAX_LEN + 1);
        for text in [
            "",
            "\n\n",
            "GET",
            "get / HTTP/1.1",
            "GET /?a=b c HTTP/1.1",
            "GET example.com HTTP/1.1",
            "GET / HTTP/1.1\nno header",
            "GET / HTTP/1.1\nn\u{e9}: x",
            "GET / HTTP/1.1\nA: \u{7}",
            "curl 'http://a.example'",
            &many,
            &long,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[A-Z /?:a\r\n\u{e9}0-9]{0,80}") {
            drop(parse(&text));
        }
    }
}
