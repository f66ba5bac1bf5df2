//! The metrics that the dashboards and alerts of kubernetes-mixin read, held against a running server's page.

use testkit::{Cluster, Options};

use crate::IRONCLAD;

/// Every name that a cluster has which has just scheduled a pod; what only failures count is not there yet.
const NAMES: &[&str] = &[
    "aggregator_unavailable_apiservice",
    "apiserver_admission_controller_admission_duration_seconds_bucket",
    "apiserver_admission_step_admission_duration_seconds_bucket",
    "apiserver_client_certificate_expiration_seconds_bucket",
    "apiserver_client_certificate_expiration_seconds_count",
    "apiserver_current_inflight_requests",
    "apiserver_flowcontrol_current_executing_seats",
    "apiserver_flowcontrol_nominal_limit_seats",
    "apiserver_longrunning_requests",
    "apiserver_request_duration_seconds_bucket",
    "apiserver_request_sli_duration_seconds_bucket",
    "apiserver_request_sli_duration_seconds_count",
    "apiserver_request_total",
    "apiserver_resource_objects",
    "apiserver_response_sizes_bucket",
    "apiserver_storage_objects",
    "apiserver_storage_size_bytes",
    "authenticated_user_requests",
    "authentication_attempts",
    "authorization_attempts_total",
    "etcd_request_duration_seconds_bucket",
    "etcd_requests_total",
    "kubernetes_build_info",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "rest_client_request_duration_seconds_bucket",
    "rest_client_requests_total",
    "scheduler_pending_pods",
    "scheduler_pod_scheduling_attempts_bucket",
    "scheduler_pod_scheduling_sli_duration_seconds_bucket",
    "scheduler_schedule_attempts_total",
    "scheduler_scheduling_algorithm_duration_seconds_count",
    "scheduler_scheduling_attempt_duration_seconds_bucket",
    "workqueue_adds_total",
    "workqueue_depth",
    "workqueue_queue_duration_seconds_bucket",
    "workqueue_work_duration_seconds_bucket",
];

#[test]
fn dashboards_find_their_metrics() {
    let cluster = Cluster::start(Options::hollow(IRONCLAD, 1));
    cluster.kubectl(&["run", "one", "--image=none"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/one", "--timeout=60s"]);
    // An APIService of another server, which is not there.
    cluster.apply(
        testkit::Kubectl::V1_37,
        "{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.gone.example.com}, \
         spec: {group: gone.example.com, version: v1, groupPriorityMinimum: 1, versionPriority: 1, \
         insecureSkipTLSVerify: true, service: {namespace: default, name: gone}}}",
    );
    cluster.kubectl(&[
        "wait",
        "--for=jsonpath={.status.conditions[0].status}=False",
        "apiservice/v1.gone.example.com",
        "--timeout=60s",
    ]);
    let page = cluster.kubectl(&["get", "--raw", "/metrics"]);
    let has = |name: &str| {
        page.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
    };
    let missing: Vec<&&str> = NAMES.iter().filter(|name| !has(name)).collect();
    assert!(missing.is_empty(), "{missing:?} are missing in\n{page}");
    assert!(page.contains("# TYPE process_cpu_seconds_total counter\n"));
    assert!(page.contains("aggregator_unavailable_apiservice{name=\"v1.gone.example.com\"} 1\n"), "{page}");
    // Resources that nobody has asked for are counted too.
    assert!(page.contains("apiserver_storage_objects{resource=\"podtemplates\"} 0\n"), "{page}");
}
