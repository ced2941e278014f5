//! What is kept of the request that began a connection: the transport holds it as long as the connection is open. So it holds
//! what is looked at later, in memory of its own; what it came in would hold all that was read with it.

use axum::{
    extract::Request,
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, Uri, header},
};
use hyper::upgrade::OnUpgrade;

use crate::http::RequestScope;

/// The request with nothing but that.
pub(super) fn slim(mut request: Request) -> Request {
    // What the transport and the handshake look at.
    let looked_at = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::SEC_WEBSOCKET_KEY,
        HeaderName::from_static("x-api-key"),
    ];
    let own = |value: &HeaderValue| HeaderValue::from_bytes(value.as_bytes()).ok();
    *request.headers_mut() = some_of(request.headers(), &looked_at, 0, own);
    if let Ok(own) = request.uri().to_string().parse::<Uri>() {
        *request.uri_mut() = own;
    }
    let mut extensions = Extensions::new();
    if let Some(scope) = request.extensions_mut().remove::<RequestScope>() {
        extensions.insert(scope);
    }
    if let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() {
        extensions.insert(upgrade);
    }
    *request.extensions_mut() = extensions;
    request
}

/// Some headers, in a map with room for no more than them and `others`: for one header, an ordinary one has room for six.
pub(super) fn some_of(
    headers: &HeaderMap,
    names: &[HeaderName],
    others: usize,
    value: impl Fn(&HeaderValue) -> Option<HeaderValue>,
) -> HeaderMap {
    let all = || names.iter().flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)));
    let mut some = HeaderMap::with_capacity(all().count() + others);
    for (name, own) in all().filter_map(|(name, own)| Some((name, value(own)?))) {
        some.append(name, own);
    }
    some
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        http::{Request, header},
    };

    use super::slim;

    #[test]
    fn what_is_looked_at_later_stays() {
        let request = Request::get("/socket.io/?EIO=4&transport=websocket")
            .header("cookie", "a=1")
            .header("x-api-key", "key")
            .header("sec-websocket-key", "c2FtcGxl")
            .header("user-agent", "a browser")
            .extension("an extension");
        let kept = slim(request.body(Body::empty()).unwrap());
        assert_eq!(kept.uri(), "/socket.io/?EIO=4&transport=websocket");
        assert_eq!(kept.headers()[header::COOKIE], "a=1");
        assert_eq!(kept.headers()["x-api-key"], "key");
        assert_eq!((kept.headers().len(), kept.extensions().len()), (3, 0));
    }
}
