//! The page's own files, which the build script has put into the program as gzip. They hold nothing of the mesh.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;

use super::plain;

// `FILES`: path, and gzip of the content.
include!(concat!(env!("OUT_DIR"), "/dashboard.rs"));

pub fn answer(request: &Request<()>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let wanted = if path == "/" { "/index.html" } else { path };
    let Some((name, content)) = FILES.iter().find(|(name, _)| *name == wanted) else {
        return plain(StatusCode::NOT_FOUND, "nothing there\n");
    };
    let taken = request.headers().get_all(header::ACCEPT_ENCODING).into_iter();
    if !taken.filter_map(|value| value.to_str().ok()).any(|value| value.contains("gzip")) {
        return plain(StatusCode::NOT_ACCEPTABLE, "this file is there as gzip only: Accept-Encoding: gzip\n");
    }
    let mut response = Response::new(Full::from(Bytes::from_static(content)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind(name)));
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    // Names do not change with the content.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str, encoding: &str) -> Response<Full<Bytes>> {
        answer(&Request::builder().uri(path).header("accept-encoding", encoding).body(()).unwrap())
    }

    #[test]
    fn the_page_is_there_with_all_that_it_names() {
        let page = asked("/", "br, gzip");
        assert_eq!(page.status(), StatusCode::OK);
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
        for path in ["/app.js", "/layout.js", "/style.css", "/icon.svg", "/licences.txt"] {
            assert_eq!(asked(path, "gzip").status(), StatusCode::OK, "{path}");
        }
        for path in ["/../Cargo.toml", "/app.js/", "/src/main.tsx", "//app.js"] {
            assert_eq!(asked(path, "gzip").status(), StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(asked("/", "identity").status(), StatusCode::NOT_ACCEPTABLE);
    }
}
