//! Routes whose handlers do not carry their functions' types along.
//!
//! axum wraps a handler's type into those of some ten services, each of which the compiler would check, build and lay out
//! anew for every one of some hundred handlers: half the time that this crate takes to build.

use std::{convert::Infallible, pin::Pin, sync::Arc};

use axum::{extract::Request, handler::Handler, response::Response, routing::MethodRouter};
use utoipa::openapi::HttpMethod;
use utoipa_axum::PathItemExt as _;

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

/// A handler of which only what it does is known.
pub struct Erased<S>(Arc<dyn Fn(Request, S) -> Answer + Send + Sync>);

impl<S> Clone for Erased<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: 'static> Handler<(), S> for Erased<S> {
    type Future = Answer;

    fn call(self, request: Request, state: S) -> Answer {
        (self.0)(request, state)
    }
}

/// `handler`, without its type.
pub fn erased<T: 'static, S: 'static>(handler: impl Handler<T, S, Future = Answer>) -> Erased<S> {
    Erased(Arc::new(move |request, state| handler.clone().call(request, state)))
}

/// `router` with `handler` for `methods`, too.
pub fn on<S: Clone + Send + Sync + 'static>(
    router: MethodRouter<S, Infallible>,
    methods: &[HttpMethod],
    handler: Erased<S>,
) -> MethodRouter<S, Infallible> {
    methods.iter().fold(router, |router, method| router.on(method.to_method_filter(), handler.clone()))
}

/// As [`utoipa_axum::routes!`]: the handlers of one path, described by `#[utoipa::path]`.
macro_rules! routes {
    ($($handler:path),+ $(,)?) => {{
        let mut schemas = Vec::new();
        let mut paths = utoipa::openapi::path::Paths::new();
        let mut methods = axum::routing::MethodRouter::new();
        $(
            let (path, operation, of) = utoipa_axum::routes!(@resolve_types $handler : schemas);
            methods = $crate::http::routing::on(methods, &of, $crate::http::routing::erased($handler));
            paths.add_path_operation(&path, of, operation);
        )+
        (schemas, paths, methods)
    }};
}
pub(crate) use routes;
