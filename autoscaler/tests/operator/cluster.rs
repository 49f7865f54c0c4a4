//! An API server in memory, on loopback: as much of one as an operator meets.
//!
//! GET, LIST in pages, WATCH, POST, PUT with versions, merge patches, server-side apply with field ownership and its
//! conflicts, the status subresource, finalizers, generations, the resource's CEL rules. Every door to it is an address of
//! its own that can be shut, so that one replica can be cut off and another not.

mod fields;

use autoscaler::cluster::crd::PredictiveScaler;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use kube::{Client, Config, CustomResourceExt as _};
use kube_cel::Validator;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::broadcast;

pub(crate) const SCALERS: &str = "predictivescalers";
pub(crate) const HPAS: &str = "horizontalpodautoscalers";
pub(crate) const LEASES: &str = "leases";
pub(crate) const EVENTS: &str = "events";
const KNOWN: [&str; 6] = [SCALERS, HPAS, LEASES, EVENTS, "namespaces", "customresourcedefinitions"];

/// One request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    /// The port of the door that it came in by.
    pub(crate) door: u16,
}

type Key = (String, String, String);

#[derive(Clone, Debug)]
struct Happened {
    version: u64,
    kind: &'static str,
    key: Key,
    object: Value,
}

#[derive(Default)]
struct Store {
    version: u64,
    objects: BTreeMap<Key, Value>,
    past: Vec<Happened>,
    asked: Vec<Asked>,
    lenient: bool,
    forbidden: Option<&'static str>,
}

struct Inner {
    store: Mutex<Store>,
    news: broadcast::Sender<Happened>,
    /// Answers with this status instead, unless it is 0.
    failing: AtomicU16,
    /// Number of the next floors that find an autoscaler that has changed since it was read.
    disturbed: AtomicU16,
}

#[derive(Clone)]
pub(crate) struct Cluster(Arc<Inner>);

/// One client of the cluster.
#[derive(Clone)]
pub(crate) struct Door {
    cluster: Cluster,
    shut: Arc<AtomicBool>,
    pub(crate) address: SocketAddr,
}

impl Door {
    /// A client that comes in here.
    pub(crate) fn client(&self) -> Client {
        autoscaler::cluster::tls::provide();
        let mut config = Config::new(format!("http://{}", self.address).parse().unwrap());
        config.default_namespace = "autoscaler".to_owned();
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    /// A kubeconfig for a process that comes in here.
    pub(crate) fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: mock\n\
             clusters: [{{name: mock, cluster: {{server: \"http://{}\"}}}}]\n\
             users: [{{name: mock, user: {{}}}}]\n\
             contexts: [{{name: mock, context: {{cluster: mock, user: mock, namespace: autoscaler}}}}]\n",
            self.address
        )
    }

    /// From now on nobody gets an answer here.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
    }
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let (news, _) = broadcast::channel(65_536);
        Cluster(Arc::new(Inner {
            store: Mutex::default(),
            news,
            failing: AtomicU16::new(0),
            disturbed: AtomicU16::new(0),
        }))
    }

    /// Opens a door: an address with this cluster behind it.
    pub(crate) async fn door(&self) -> Door {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = Door { cluster: self.clone(), shut: Arc::default(), address: listener.local_addr().unwrap() };
        let router = Router::new().fallback(enter).with_state(door.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        door
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.store.lock().unwrap()
    }

    /// Answers everything with `status` from now on; 0 is health.
    pub(crate) fn fail(&self, status: u16) {
        self.0.failing.store(status, Ordering::SeqCst);
    }

    /// Takes steps of a second, which no real one does: a test in real time would be ten times as long.
    pub(crate) fn lenient(&self) {
        self.store().lenient = true;
    }

    /// From now on nobody may write these.
    pub(crate) fn forbid(&self, plural: &'static str) {
        self.store().forbidden = Some(plural);
    }

    /// Returns all requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.store().asked.clone()
    }

    /// Returns the number of accepted writes of this resource.
    pub(crate) fn writes(&self, plural: &str) -> usize {
        let part = format!("/{plural}");
        let writes = |asked: &&Asked| asked.method != "GET" && asked.status < 300 && asked.path.contains(&part);
        self.store().asked.iter().filter(writes).count()
    }

    /// Returns the current object.
    pub(crate) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.store().objects.get(&key(plural, namespace, name)).cloned()
    }

    /// Returns all objects of a kind.
    pub(crate) fn all(&self, plural: &str) -> Vec<Value> {
        let store = self.store();
        store.objects.iter().filter(|((of, _, _), _)| of == plural).map(|(_, object)| object.clone()).collect()
    }

    /// Returns the number of objects of a kind for which `holds` is true. Copies none: of a thousand that is what takes long.
    pub(crate) fn count(&self, plural: &str, holds: impl Fn(&Value) -> bool) -> usize {
        let store = self.store();
        store.objects.iter().filter(|((of, _, _), object)| of == plural && holds(object)).count()
    }

    /// The events about an object, oldest first: reason and note.
    pub(crate) fn events(&self, name: &str) -> Vec<(String, String)> {
        let mut events = self.all(EVENTS);
        events.sort_by_key(|event| event["eventTime"].as_str().unwrap_or_default().to_owned());
        let about = events.iter().filter(|event| event["regarding"]["name"] == name);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        about.map(|event| (text(&event["reason"]), text(&event["note"]))).collect()
    }

    /// Does what a person or another controller would: `manager` is who.
    pub(crate) fn hand(&self, method: Method, path: &str, manager: &str, apply: bool, body: Value) -> (u16, Value) {
        let kind = if apply { "application/apply-patch+yaml" } else { "application/merge-patch+json" };
        let query = format!("fieldManager={manager}");
        let (status, answer) = self.act(&method, path, &query, kind, body);
        (status.as_u16(), answer)
    }

    /// An autoscaler: made by `kubectl create` with this minimum, which it owns then; or by a server-side apply without
    /// one, which nobody owns then.
    pub(crate) fn create_hpa(&self, namespace: &str, name: &str, min: Option<u32>, max: u32) {
        let mut spec = json!({"maxReplicas": max, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}});
        if let Some(min) = min {
            spec["minReplicas"] = json!(min);
        }
        let body = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec,
        });
        let (status, answer) = match min {
            Some(_) => {
                let path = format!("/apis/autoscaling/v2/namespaces/{namespace}/{HPAS}");
                self.hand(Method::POST, &path, "kubectl-create", false, body)
            }
            None => self.hand(Method::PATCH, &hpa_path(namespace, name), "delivery", true, body),
        };
        assert_eq!(status, 201, "{answer}");
    }

    /// Creates a PredictiveScaler.
    pub(crate) fn create_scaler(&self, namespace: &str, name: &str, spec: Value) {
        let (status, answer) = self.try_scaler(namespace, name, spec);
        assert_eq!(status, 201, "{answer}");
    }

    pub(crate) fn try_scaler(&self, namespace: &str, name: &str, spec: Value) -> (u16, Value) {
        let body = json!({
            "apiVersion": "autoscaler.acme.dev/v1alpha1", "kind": "PredictiveScaler",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec,
        });
        self.hand(Method::POST, &scaler_path(namespace, ""), "kubectl-create", false, body)
    }

    /// Changes a scaler by a merge patch.
    pub(crate) fn patch_scaler(&self, namespace: &str, name: &str, body: Value) {
        let (status, answer) = self.hand(Method::PATCH, &scaler_path(namespace, name), "kubectl-edit", false, body);
        assert_eq!(status, 200, "{answer}");
    }

    pub(crate) fn delete_scaler(&self, namespace: &str, name: &str) {
        let (status, answer) = self.hand(Method::DELETE, &scaler_path(namespace, name), "kubectl", false, json!({}));
        assert_eq!(status, 200, "{answer}");
    }

    /// Sets an autoscaler's status, as the cluster's own controller does every few seconds.
    pub(crate) fn run_pods(&self, namespace: &str, name: &str, pods: u32) {
        let status = json!({"currentReplicas": pods, "desiredReplicas": pods});
        let path = format!("{}/status", hpa_path(namespace, name));
        let (code, answer) =
            self.hand(Method::PATCH, &path, "kube-controller-manager", false, json!({ "status": status }));
        assert_eq!(code, 200, "{answer}");
    }

    /// Changes an autoscaler's status before each of the next `times` floors is written, as its own controller may.
    pub(crate) fn disturb(&self, times: u16) {
        self.0.disturbed.store(times, Ordering::SeqCst);
    }

    /// Returns true if no disturbances are left.
    pub(crate) fn undisturbed(&self) -> bool {
        self.0.disturbed.load(Ordering::SeqCst) == 0
    }

    fn disturb_before(&self, method: &Method, path: &str) {
        let place = Place::read(path).filter(|place| place.plural == HPAS && !place.status);
        let (&Method::PATCH, Some(Place { namespace: Some(namespace), name: Some(name), .. })) = (method, place) else {
            return;
        };
        let left = &self.0.disturbed;
        if let Ok(left) = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            // Few enough pods for the demand: many more look like a query per pod, and hold the floor.
            self.run_pods(&namespace, &name, 3 + u32::from(left % 5));
        }
    }

    /// Returns the minimum of an autoscaler.
    pub(crate) fn min(&self, namespace: &str, name: &str) -> u64 {
        let hpa = self.get(HPAS, namespace, name).unwrap();
        hpa["spec"]["minReplicas"].as_u64().unwrap()
    }

    fn act(&self, method: &Method, path: &str, query: &str, kind: &str, body: Value) -> (StatusCode, Value) {
        let Some(place) = Place::read(path) else {
            return refuse(StatusCode::NOT_FOUND, "NotFound", format!("there is nothing at {path}"));
        };
        let params: BTreeMap<String, String> = pairs(query).collect();
        let mut store = self.store();
        let before = store.version;
        let answer = store.act(method, &place, &params, kind, body);
        let first = store.past.iter().rposition(|happened| happened.version <= before).map_or(0, |last| last + 1);
        for happened in &store.past[first..] {
            // Nobody may be listening.
            let _ = self.0.news.send(happened.clone());
        }
        answer
    }
}

pub(crate) fn hpa_path(namespace: &str, name: &str) -> String {
    format!("/apis/autoscaling/v2/namespaces/{namespace}/{HPAS}/{name}")
}

pub(crate) fn scaler_path(namespace: &str, name: &str) -> String {
    let path = format!("/apis/autoscaler.acme.dev/v1alpha1/namespaces/{namespace}/{SCALERS}");
    if name.is_empty() { path } else { format!("{path}/{name}") }
}

fn key(plural: &str, namespace: &str, name: &str) -> Key {
    (plural.to_owned(), namespace.to_owned(), name.to_owned())
}

/// Meaning of a path.
struct Place {
    plural: String,
    namespace: Option<String>,
    name: Option<String>,
    status: bool,
}

impl Place {
    fn read(path: &str) -> Option<Place> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match parts.as_slice() {
            ["apis", _, _, rest @ ..] => rest,
            ["api", _, rest @ ..] => rest,
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let (plural, name, status) = match rest {
            [plural] => (plural, None, false),
            [plural, name] => (plural, Some((*name).to_owned()), false),
            [plural, name, "status"] => (plural, Some((*name).to_owned()), true),
            _ => return None,
        };
        KNOWN.contains(plural).then(|| Place { plural: (*plural).to_owned(), namespace, name, status })
    }
}

fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| {
        // Enough of the encoding for names and numbers.
        (name.to_owned(), value.replace("%2F", "/").replace("%3D", "="))
    })
}

fn refuse(code: StatusCode, reason: &str, message: impl Into<String>) -> (StatusCode, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message.into(),
        "code": code.as_u16(),
    });
    (code, status)
}

fn conflict(message: &str) -> (StatusCode, Value) {
    refuse(StatusCode::CONFLICT, "Conflict", message)
}

impl Store {
    fn act(
        &mut self,
        method: &Method,
        place: &Place,
        params: &BTreeMap<String, String>,
        kind: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let manager = params.get("fieldManager").map_or("unknown", String::as_str);
        let namespace = place.namespace.clone().unwrap_or_default();
        if *method != Method::GET && self.forbidden == Some(place.plural.as_str()) {
            return refuse(StatusCode::FORBIDDEN, "Forbidden", format!("{} is forbidden", place.plural));
        }
        let Some(name) = &place.name else {
            return match *method {
                Method::GET => (StatusCode::OK, self.list(place, params)),
                Method::POST => self.create(&place.plural, &namespace, manager, body),
                _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not on a list"),
            };
        };
        let key = key(&place.plural, &namespace, name);
        let Some(live) = self.objects.get(&key).cloned() else {
            let asks_for_a_version = body["metadata"]["resourceVersion"].is_string();
            return if *method == Method::PATCH && kind.contains("apply") {
                if asks_for_a_version {
                    return conflict("the object has been modified: it is gone");
                }
                let made = fields::apply(&json!({}), &body, manager, None, false).unwrap_or_default();
                self.make(&key, made, &body)
            } else {
                refuse(StatusCode::NOT_FOUND, "NotFound", format!("{} \"{name}\" not found", place.plural))
            };
        };
        let wanted = body["metadata"]["resourceVersion"].as_str();
        if *method != Method::GET
            && wanted.is_some_and(|wanted| Some(wanted) != live["metadata"]["resourceVersion"].as_str())
        {
            return conflict("the object has been modified; please apply your changes to the latest version");
        }
        let sub = place.status.then_some("status");
        match *method {
            Method::GET => (StatusCode::OK, live),
            Method::DELETE => self.delete(&key, live),
            Method::PUT => {
                let mut next = live.clone();
                for part in ["spec", "status", "metadata"] {
                    let settable = match (place.status, part) {
                        (true, part) => part == "status",
                        (false, "status") => place.plural != SCALERS && place.plural != HPAS,
                        (false, _) => true,
                    };
                    if settable && part != "metadata" {
                        next[part] = body[part].clone();
                    }
                }
                fields::update(&live, &mut next, manager, sub);
                self.put(&key, &live, next)
            }
            Method::PATCH if kind.contains("apply") => {
                let force = params.get("force").is_some_and(|force| force == "true");
                match fields::apply(&live, &body, manager, sub, force) {
                    Ok(next) => self.put(&key, &live, next),
                    Err(causes) => {
                        let message = format!("Apply failed with {} conflict", causes.len());
                        let (code, mut status) = conflict(&message);
                        status["details"] = json!({ "causes": causes });
                        (code, status)
                    }
                }
            }
            Method::PATCH => {
                let mut next = live.clone();
                let mut body = body;
                let metadata = body.get_mut("metadata").and_then(Value::as_object_mut);
                let managed = metadata.and_then(|metadata| metadata.remove("managedFields"));
                if place.status {
                    body = json!({"status": body["status"]});
                } else if let Some(body) = body.as_object_mut() {
                    body.remove("status");
                }
                merge(&mut next, &body);
                match managed {
                    // A list of one empty entry empties it.
                    Some(managed) => {
                        let entries = managed.as_array().cloned().unwrap_or_default();
                        let entries: Vec<Value> = entries.into_iter().filter(|entry| *entry != json!({})).collect();
                        next["metadata"]["managedFields"] = json!(entries);
                    }
                    None => fields::update(&live, &mut next, manager, sub),
                }
                self.put(&key, &live, next)
            }
            _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not on an object"),
        }
    }

    fn list(&self, place: &Place, params: &BTreeMap<String, String>) -> Value {
        let here = |(plural, namespace, _): &Key| {
            *plural == place.plural && place.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
        };
        let all: Vec<&Value> = self.objects.iter().filter(|(key, _)| here(key)).map(|(_, object)| object).collect();
        let from: usize = params.get("continue").and_then(|token| token.parse().ok()).unwrap_or(0);
        let most: usize = params.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let page: Vec<&Value> = all.iter().skip(from).take(most).copied().collect();
        let next = from.saturating_add(page.len());
        let token = if next < all.len() { next.to_string() } else { String::new() };
        json!({
            "kind": "List", "apiVersion": "v1", "items": page,
            "metadata": {"resourceVersion": self.version.to_string(), "continue": token},
        })
    }

    fn create(&mut self, plural: &str, namespace: &str, manager: &str, body: Value) -> (StatusCode, Value) {
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = key(plural, namespace, &name);
        if self.objects.contains_key(&key) {
            return refuse(StatusCode::CONFLICT, "AlreadyExists", format!("{plural} \"{name}\" already exists"));
        }
        let mut object = body.clone();
        if plural == SCALERS {
            object.as_object_mut().unwrap().remove("status");
        }
        // What is defaulted in a plain write is its writer's own, as in a real one.
        default(&mut object, plural);
        fields::update(&json!({}), &mut object, manager, None);
        self.make(&key, object, &body)
    }

    fn make(&mut self, key: &Key, mut object: Value, asked: &Value) -> (StatusCode, Value) {
        object["apiVersion"] = asked["apiVersion"].clone();
        object["kind"] = asked["kind"].clone();
        object["metadata"]["name"] = json!(key.2);
        object["metadata"]["namespace"] = json!(key.1);
        object["metadata"]["uid"] = json!(format!("{}-{}", key.0, self.version + 1));
        object["metadata"]["creationTimestamp"] = json!(jiff::Timestamp::now().to_string());
        object["metadata"]["generation"] = json!(1);
        let (code, answer) = self.put(key, &Value::Null, object);
        (if code == StatusCode::OK { StatusCode::CREATED } else { code }, answer)
    }

    fn delete(&mut self, key: &Key, mut live: Value) -> (StatusCode, Value) {
        let guarded = live["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
        if guarded {
            if live["metadata"]["deletionTimestamp"].is_null() {
                live["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now().to_string());
                let generation = live["metadata"]["generation"].as_u64().unwrap_or(0) + 1;
                live["metadata"]["generation"] = json!(generation);
                self.happen("MODIFIED", key, &mut live);
            }
        } else {
            self.happen("DELETED", key, &mut live);
        }
        (StatusCode::OK, live)
    }

    fn put(&mut self, key: &Key, live: &Value, mut next: Value) -> (StatusCode, Value) {
        default(&mut next, &key.0);
        if let Err(problem) = valid(&key.0, live, &next, self.lenient) {
            return refuse(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", problem);
        }
        if next == *live {
            return (StatusCode::OK, next);
        }
        if !live.is_null() && next["spec"] != live["spec"] {
            next["metadata"]["generation"] = json!(live["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
        }
        let finalizers = next["metadata"]["finalizers"].as_array().map_or(0, Vec::len);
        if !next["metadata"]["deletionTimestamp"].is_null() && finalizers == 0 {
            self.happen("DELETED", key, &mut next);
        } else {
            self.happen(if live.is_null() { "ADDED" } else { "MODIFIED" }, key, &mut next);
        }
        (StatusCode::OK, next)
    }

    fn happen(&mut self, kind: &'static str, key: &Key, object: &mut Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if kind == "DELETED" {
            self.objects.remove(key);
        } else {
            self.objects.insert(key.clone(), object.clone());
        }
        self.past.push(Happened { version: self.version, kind, key: key.clone(), object: object.clone() });
    }
}

fn default(object: &mut Value, plural: &str) {
    if plural == HPAS && object["spec"]["minReplicas"].is_null() {
        object["spec"]["minReplicas"] = json!(1);
    }
}

fn valid(plural: &str, live: &Value, next: &Value, lenient: bool) -> Result<(), String> {
    if plural == HPAS {
        let (min, max) = (next["spec"]["minReplicas"].as_u64(), next["spec"]["maxReplicas"].as_u64());
        let (Some(min), Some(max)) = (min, max) else { return Err("spec.maxReplicas: Required value".to_owned()) };
        if min > max {
            return Err("spec.maxReplicas: must be greater than or equal to `minReplicas`".to_owned());
        }
    }
    if plural == SCALERS && !lenient && next["spec"] != live["spec"] {
        let old = live.get("spec");
        let definition = serde_json::to_value(PredictiveScaler::crd()).unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let checked = Validator::new().validate(schema, &next["spec"], old);
        checked.map_err(|broken| broken.to_string())?;
    }
    Ok(())
}

/// RFC 7396.
fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut into[name], value);
        }
    }
}

async fn enter(State(door): State<Door>, request: Request) -> Response {
    if door.shut.load(Ordering::SeqCst) {
        return std::future::pending().await;
    }
    let (parts, body) = request.into_parts();
    let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
    let kind =
        parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
    let bytes = to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let failing = door.cluster.0.failing.load(Ordering::SeqCst);
    let watching = query.contains("watch=true");
    let (status, answer) = if failing != 0 {
        refuse(StatusCode::from_u16(failing).unwrap(), "InternalError", "etcd is away")
    } else if watching {
        (StatusCode::OK, Value::Null)
    } else {
        door.cluster.disturb_before(&parts.method, &path);
        door.cluster.act(&parts.method, &path, &query, &kind, body)
    };
    let asked = Asked {
        method: parts.method.to_string(),
        path: path.clone(),
        status: status.as_u16(),
        door: door.address.port(),
    };
    door.cluster.store().asked.push(asked);
    if watching && status == StatusCode::OK {
        return watch(door, &path, &query);
    }
    // Shut while it was written: done, and nobody hears of it.
    if door.shut.load(Ordering::SeqCst) {
        return std::future::pending().await;
    }
    (status, [(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response()
}

fn watch(door: Door, path: &str, query: &str) -> Response {
    let place = Place::read(path).unwrap();
    let since: u64 =
        pairs(query).find(|(name, _)| name == "resourceVersion").map_or(0, |(_, version)| version.parse().unwrap_or(0));
    let news = door.cluster.0.news.subscribe();
    let here = move |happened: &Happened| {
        happened.key.0 == place.plural && place.namespace.as_ref().is_none_or(|namespace| *namespace == happened.key.1)
    };
    let past: Vec<Happened> = {
        let store = door.cluster.store();
        store.past.iter().filter(|happened| happened.version > since && here(happened)).cloned().collect()
    };
    let newest = past.last().map_or(since, |happened| happened.version);
    let line = |happened: &Happened| {
        let mut line = json!({"type": happened.kind, "object": happened.object}).to_string();
        line.push('\n');
        line
    };
    let state = (past.into_iter(), news, newest, door);
    let lines = stream::unfold(state, move |(mut past, mut news, newest, door)| {
        let here = here.clone();
        async move {
            if let Some(happened) = past.next() {
                return Some((Ok::<_, Infallible>(line(&happened)), (past, news, newest, door)));
            }
            loop {
                // An API server that fails ends its watches.
                if door.cluster.0.failing.load(Ordering::SeqCst) != 0 {
                    return None;
                }
                match tokio::time::timeout(Duration::from_millis(100), news.recv()).await {
                    Ok(Ok(happened)) if happened.version > newest && here(&happened) => {
                        if door.shut.load(Ordering::SeqCst) {
                            return std::future::pending().await;
                        }
                        let newest = happened.version;
                        return Some((Ok(line(&happened)), (past, news, newest, door)));
                    }
                    Ok(Err(_)) => return None,
                    Ok(Ok(_)) | Err(_) => {}
                }
            }
        }
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

impl Clone for Place {
    fn clone(&self) -> Place {
        Place {
            plural: self.plural.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            status: self.status,
        }
    }
}
