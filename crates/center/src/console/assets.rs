//! Style, script and icon: in the binary, named by their content, so that browsers keep them for ever.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest as _, Sha256};

use crate::token;

/// A file.
pub(crate) struct Asset {
    /// Its path, with the hash of its content.
    pub(crate) path: String,
    media_type: &'static str,
    plain: &'static [u8],
    /// Compressed by zstd; none where that is not smaller.
    small: Option<Bytes>,
}

/// The level of the compression, which is done once.
const LEVEL: i32 = 19;

impl Asset {
    fn of(name: &str, media_type: &'static str, plain: &'static [u8]) -> Asset {
        let (stem, end) = name.rsplit_once('.').unwrap_or((name, ""));
        let hash = token::hex(Sha256::digest(plain).get(..8).unwrap_or_default());
        let small = zstd::bulk::compress(plain, LEVEL).ok();
        let small = small.filter(|small| small.len() < plain.len()).map(Bytes::from);
        Asset { path: format!("/static/{stem}-{hash}.{end}"), media_type, plain, small }
    }
}

pub(crate) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::of("console.css", "text/css; charset=utf-8", STYLE_TEXT));
pub(crate) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::of("console.js", "text/javascript; charset=utf-8", SCRIPT_TEXT));
pub(crate) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::of("icon.svg", "image/svg+xml", ICON_TEXT));

const STYLE_TEXT: &[u8] = include_bytes!("assets/console.css");
const SCRIPT_TEXT: &[u8] = include_bytes!("assets/console.js");
const ICON_TEXT: &[u8] = include_bytes!("assets/icon.svg");

pub(super) async fn fetch(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let all: [&Asset; 3] = [&STYLE, &SCRIPT, &ICON];
    let named = |asset: &&&Asset| asset.path.strip_prefix("/static/") == Some(&name);
    let Some(asset) = all.iter().find(named) else { return StatusCode::NOT_FOUND.into_response() };
    let (body, encoding) = match &asset.small {
        Some(small) if takes_zstd(&headers) => (small.clone(), Some("zstd")),
        _ => (Bytes::from_static(asset.plain), None),
    };
    let mut response = body.into_response();
    let said = response.headers_mut();
    said.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.media_type));
    let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
    said.insert(header::CACHE_CONTROL, forever);
    said.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(encoding) = encoding {
        said.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    response
}

fn takes_zstd(headers: &HeaderMap) -> bool {
    let all = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|text| text.split(',')).any(|one| {
        let (name, weight) = one.split_once(';').unwrap_or((one, ""));
        name.trim().eq_ignore_ascii_case("zstd") && !matches!(weight.trim(), "q=0" | "q=0.0")
    })
}
