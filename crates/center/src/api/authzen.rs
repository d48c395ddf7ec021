//! stub
pub(crate) async fn configuration() {}
pub(crate) async fn service_configuration() {}
pub(crate) async fn evaluation() {}
pub(crate) async fn evaluations() {}
pub(crate) async fn service_evaluation() {}
pub(crate) async fn service_evaluations() {}
