//! The pages of an operator: all workloads, then one each. Nothing but what the state remembers.

use super::{Content, Server};
use crate::page::Notice;
use crate::page::list::{self, Asked, ListPage};
use crate::page::workload::{self, PAST, WorkloadPage};
use crate::readiness::Leadership;
use crate::state::{self, ScalerName};
use autoscaler_forecast::failure::Failure;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

// Two days of one-minute steps; the chart shows no more.
const MOST_DECISIONS: u32 = 2_880;

impl Server {
    /// Returns the state to show, and the notices above it.
    fn board(&self) -> Option<(&state::State, Vec<Notice>)> {
        let Content::Operator(state, readiness) = &self.content else { return None };
        let leader = readiness.as_ref().map_or(Leadership::Unknown, |readiness| readiness.leader());
        Some((state, Notice::of(&leader, &state.health())))
    }
}

pub(super) async fn list(State(server): State<Arc<Server>>, RawQuery(query): RawQuery) -> Response {
    let Some((state, notices)) = server.board() else { return StatusCode::NOT_FOUND.into_response() };
    let asked = Asked::read(query.as_deref().unwrap_or_default());
    let page = ListPage::new(&state.list(), &asked, server.about(), notices);
    server.html(StatusCode::OK, list::TEMPLATE, &page)
}

pub(super) async fn scaler(
    State(server): State<Arc<Server>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let Some((state, notices)) = server.board() else { return StatusCode::NOT_FOUND.into_response() };
    let name = ScalerName::new(namespace, name);
    match state.workload(&name, PAST, MOST_DECISIONS) {
        Some(stored) => {
            let page = WorkloadPage::of_scaler(&name, &stored, server.about(), notices);
            server.html(StatusCode::OK, workload::TEMPLATE, &page)
        }
        None => {
            let failure = Failure::input(format!("PredictiveScaler `{name}` not found on this replica"))
                .hint("see the list of all workloads; a new one appears after its first decision");
            server.error(StatusCode::NOT_FOUND, failure)
        }
    }
}
