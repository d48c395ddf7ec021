//! Who sends, as everything that is sent says it.

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;

/// Who sends: the environment's `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, and what they leave
/// open.
pub(super) fn resource(program: &'static str) -> Resource {
    let own = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", program),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", format!("{program}-{}", std::process::id())),
        ])
        .build();
    let said = Resource::builder().build();
    // Where nothing is said the SDK makes a name of its own.
    let said = said.iter().filter(|(key, value)| {
        key.as_str() != "service.name" || !value.as_str().starts_with("unknown_service")
    });
    let said: Vec<KeyValue> =
        said.map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
    let own = own.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty().with_attributes(own.chain(said)).build()
}

pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("keepgate").with_version(env!("CARGO_PKG_VERSION")).build()
}
