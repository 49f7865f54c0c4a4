//! Packages of a lock that are reached from those that are asked for, and the condition of each.
//!
//! Pure. A package with an extra is a node of its own: its extra's edges count where somebody asks for the extra.

use super::condition::{Condition, KnownAnswer};
use crate::spec::requirements::Marker;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
pub(super) struct GraphNode {
    pub(super) edges: Vec<Edge>,
    pub(super) extras: BTreeMap<String, Vec<Edge>>,
}

#[derive(Clone, Debug)]
pub(super) struct Edge {
    /// Index of the node.
    pub(super) to: usize,
    pub(super) extras: BTreeSet<String>,
    pub(super) marker: Option<Marker>,
}

/// The reached nodes, each with its condition and the extras that somebody asks for.
///
/// # Errors
/// The index of a node whose condition has too many alternatives.
pub(super) fn reached(
    nodes: &[GraphNode],
    roots: &[Edge],
    known: KnownAnswer<'_>,
) -> Result<BTreeMap<usize, (Condition, BTreeSet<String>)>, usize> {
    let none = String::new();
    let mut found: BTreeMap<(usize, String), Condition> = BTreeMap::new();
    let mut open: Vec<(usize, String, Condition)> = Vec::new();
    let follow = |edges: &[Edge], above: &Condition, open: &mut Vec<(usize, String, Condition)>| {
        for edge in edges {
            let here = edge.marker.as_ref().map_or_else(Condition::always, |marker| Condition::of(marker, known));
            let here = above.and(&here);
            for extra in std::iter::once(&none).chain(&edge.extras) {
                open.push((edge.to, extra.clone(), here.clone()));
            }
        }
    };
    follow(roots, &Condition::always(), &mut open);
    while let Some((node, extra, condition)) = open.pop() {
        let before = found.entry((node, extra.clone())).or_default();
        let after = before.or(&condition);
        if after == *before {
            continue;
        }
        if after.is_too_long() {
            return Err(node);
        }
        *before = after.clone();
        let edges = match extra.as_str() {
            "" => Some(&nodes[node].edges),
            extra => nodes[node].extras.get(extra),
        };
        follow(edges.map(Vec::as_slice).unwrap_or_default(), &after, &mut open);
    }
    let mut all: BTreeMap<usize, (Condition, BTreeSet<String>)> = BTreeMap::new();
    for ((node, extra), condition) in found {
        let entry = all.entry(node).or_default();
        entry.0 = entry.0.or(&condition);
        entry.1.extend((!extra.is_empty()).then_some(extra));
    }
    Ok(all)
}
