// The official JavaScript client against a running cluster: create, every patch, list, watch, informer, exec, forward.
//
// Run by crates/ironclad/tests/it/clients.rs with KUBECONFIG set and the image of a shell as its argument. Ends with an
// assertion's stack when the server answers otherwise than upstream's does; prints one line for each part that held.

const assert = require('node:assert/strict');
const net = require('node:net');
const { PassThrough } = require('node:stream');
const k8s = require('@kubernetes/client-node');

const image = process.argv[2];
const namespace = 'javascript';
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);

const as = (strategy) => k8s.setHeaderOptions('Content-Type', strategy);
const { JsonPatch, MergePatch, StrategicMergePatch, ServerSideApply } = k8s.PatchStrategy;

/** The call must fail so; returns the message. */
async function refused(code, reason, call) {
  try {
    await call();
  } catch (error) {
    assert.equal(error.code, code, String(error));
    const status = typeof error.body === 'string' ? JSON.parse(error.body) : error.body;
    assert.equal(status.reason, reason, error.body);
    return status.message;
  }
  assert.fail(`${call} was not refused`);
}

/** Watches a path until `enough` is true of what it has seen. */
function watched(path, query, enough) {
  return new Promise((resolve, reject) => {
    const seen = [];
    let done = false;
    const stop = new k8s.Watch(config).watch(
      path,
      { timeoutSeconds: 90, ...query },
      (type, object) => {
        seen.push({ type, object });
        if (!done && enough(seen)) {
          done = true;
          stop.then((controller) => controller.abort());
          resolve(seen);
        }
      },
      (error) => done || reject(error ?? new Error(`the watch of ${path} ended after ${JSON.stringify(seen.map((e) => e.type))}`)),
    );
    stop.catch(reject);
  });
}

async function basics() {
  const version = await config.makeApiClient(k8s.VersionApi).getCode();
  assert.deepEqual([version.major, version.minor], ['1', '37']);
  await core.createNamespace({ body: { metadata: { name: namespace } } });
  const made = await core.createNamespacedConfigMap({
    namespace,
    body: { metadata: { generateName: 'made-' }, data: { a: 'b' } },
  });
  assert.match(made.metadata.name, /^made-[a-z0-9]{5}$/);
  assert.ok(made.metadata.creationTimestamp instanceof Date && !Number.isNaN(+made.metadata.creationTimestamp));
  const name = made.metadata.name;
  const read = await core.readNamespacedConfigMap({ name, namespace });
  assert.deepEqual(read, made);
  read.data.a = 'c';
  const replaced = await core.replaceNamespacedConfigMap({ name, namespace, body: read });
  assert.deepEqual(replaced.data, { a: 'c' });
  await refused(409, 'Conflict', () => core.replaceNamespacedConfigMap({ name, namespace, body: made }));
  await refused(409, 'AlreadyExists', () => core.createNamespace({ body: { metadata: { name: namespace } } }));
  await refused(404, 'NotFound', () => core.readNamespacedConfigMap({ name: 'none', namespace }));
  const message = await refused(422, 'Invalid', () =>
    core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'No_Label' } } }),
  );
  assert.match(message, /a lowercase RFC 1123 subdomain must consist of/);
  const status = await core.deleteNamespacedConfigMap({ name, namespace });
  assert.equal(status.status, 'Success');
}

async function patches() {
  const container = {
    name: 'web',
    image,
    command: ['sh', '-c', "trap 'exit 0' TERM; echo started; httpd -f -p 8080 -h /tmp & wait"],
    env: [{ name: 'A', value: '1' }],
  };
  await apps.createNamespacedDeployment({
    namespace,
    body: {
      metadata: { name: 'web', labels: { app: 'web' } },
      spec: {
        selector: { matchLabels: { app: 'web' } },
        template: {
          metadata: { labels: { app: 'web' } },
          spec: { terminationGracePeriodSeconds: 1, containers: [container] },
        },
      },
    },
  });
  const patch = (body, strategy, more = {}) =>
    apps.patchNamespacedDeployment({ name: 'web', namespace, body, ...more }, as(strategy));
  const env = (of) => of.spec.template.spec.containers[0].env.map((item) => `${item.name}=${item.value}`).sort();
  const pods = { containers: [{ name: 'web', env: [{ name: 'B', value: '2' }] }] };
  assert.deepEqual(env(await patch({ spec: { template: { spec: pods } } }, StrategicMergePatch)), ['A=1', 'B=2']);
  const merged = await patch({ metadata: { labels: { tier: 'front', app: null } } }, MergePatch);
  assert.deepEqual(merged.metadata.labels, { tier: 'front' });
  const steps = [
    { op: 'test', path: '/metadata/labels/tier', value: 'front' },
    { op: 'add', path: '/metadata/labels/app', value: 'web' },
  ];
  assert.deepEqual((await patch(steps, JsonPatch)).metadata.labels, { app: 'web', tier: 'front' });
  steps[0].value = 'back';
  await refused(422, 'Invalid', () => patch(steps, JsonPatch));
  const applied = { apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name: 'web' }, spec: { replicas: 2 } };
  const conflict = await refused(409, 'Conflict', () => patch(applied, ServerSideApply, { fieldManager: 'applier' }));
  assert.match(conflict, /Apply failed with 1 conflict: conflict with .* using apps\/v1: \.spec\.replicas/);
  const forced = await patch(applied, ServerSideApply, { fieldManager: 'applier', force: true });
  assert.equal(forced.spec.replicas, 2);
  const scale = await apps.patchNamespacedDeploymentScale(
    { name: 'web', namespace, body: { spec: { replicas: 1 } } },
    as(MergePatch),
  );
  assert.equal(scale.spec.replicas, 1);
}

async function listsAndWatches() {
  for (let index = 0; index < 25; index++) {
    await core.createNamespacedConfigMap({
      namespace,
      body: { metadata: { name: `item-${String(index).padStart(2, '0')}`, labels: { parity: index % 2 ? 'odd' : 'even' } } },
    });
  }
  const names = [];
  let page, from;
  do {
    page = await core.listNamespacedConfigMap({ namespace, limit: 10, _continue: from });
    names.push(...page.items.map((item) => item.metadata.name));
    from = page.metadata._continue;
  } while (from);
  assert.equal(names.length, 26);
  assert.deepEqual(names, [...names].sort());
  const odd = await core.listNamespacedConfigMap({ namespace, labelSelector: 'parity=odd' });
  assert.equal(odd.items.length, 12);

  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const events = watched(
    path,
    { labelSelector: 'parity=odd', resourceVersion: odd.metadata.resourceVersion, allowWatchBookmarks: true },
    (seen) => seen.at(-1).object.metadata.name === 'last',
  );
  const change = (name, body) => core.patchNamespacedConfigMap({ name, namespace, body }, as(MergePatch));
  await change('item-00', { metadata: { labels: { parity: 'odd' } } });
  await change('item-00', { data: { a: 'b' } });
  await change('item-00', { metadata: { labels: { parity: 'even' } } });
  await core.deleteNamespacedConfigMap({ name: 'item-01', namespace });
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'last', labels: { parity: 'odd' } } } });
  const seen = (await events).filter((event) => event.type !== 'BOOKMARK');
  assert.deepEqual(
    seen.map((event) => `${event.type} ${event.object.metadata.name}`),
    ['ADDED item-00', 'MODIFIED item-00', 'DELETED item-00', 'DELETED item-01', 'ADDED last'],
  );

  const informer = k8s.makeInformer(config, path, () => core.listNamespacedConfigMap({ namespace }));
  const deleted = new Promise((resolve, reject) => {
    informer.on('delete', resolve);
    informer.on('error', reject);
  });
  await informer.start();
  assert.ok(informer.get('item-02', namespace));
  await core.deleteCollectionNamespacedConfigMap({ namespace, labelSelector: 'parity=even' });
  await deleted;
  await informer.stop();
}

async function pods() {
  const ready = (event) => event.type !== 'DELETED' && event.object.status?.containerStatuses?.[0]?.ready;
  const seen = await watched(
    `/api/v1/namespaces/${namespace}/pods`,
    { labelSelector: 'app=web' },
    (events) => ready(events.at(-1)) && !events.at(-1).object.metadata.deletionTimestamp,
  );
  const name = seen.at(-1).object.metadata.name;
  assert.equal(await core.readNamespacedPodLog({ name, namespace }), 'started\n');

  const text = (stream) => stream.setEncoding('utf8').toArray().then((parts) => parts.join(''));
  const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()];
  const said = [text(stdout), text(stderr)];
  const status = new Promise((resolve, reject) => {
    const exec = new k8s.Exec(config).exec(namespace, name, 'web', ['sh'], stdout, stderr, stdin, false, resolve);
    exec.catch(reject);
  });
  stdin.write('echo $((6 * 7)); echo err >&2; exit 3\n');
  const ended = await status;
  assert.equal(ended.status, 'Failure');
  assert.deepEqual(ended.details.causes, [{ reason: 'ExitCode', message: '3' }]);
  stdout.end();
  stderr.end();
  assert.deepEqual(await Promise.all(said), ['42\n', 'err\n']);

  const forward = new k8s.PortForward(config);
  const server = net.createServer((socket) => forward.portForward(namespace, name, [8080], socket, null, socket));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const answer = await new Promise((resolve, reject) => {
    const socket = net.connect(server.address().port, '127.0.0.1', () => socket.write('GET /none HTTP/1.0\r\n\r\n'));
    socket.once('data', (data) => resolve(String(data)) || socket.destroy());
    socket.once('error', reject);
  });
  server.close();
  assert.match(answer, /^HTTP\/1\.\d 404/);

  const log = new PassThrough();
  const first = new Promise((resolve) => log.once('data', (data) => resolve(String(data))));
  // It follows until the pod ends.
  await new k8s.Log(config).log(namespace, name, 'web', log, { follow: true });
  assert.equal(await first, 'started\n');
}

async function customObjects() {
  const group = 'javascript.example.com';
  const schema = {
    type: 'object',
    properties: { spec: { type: 'object', properties: { every: { type: 'integer', minimum: 1 }, unit: { type: 'string', _default: 'm' } } } },
  };
  await objects.create({
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `crontabs.${group}` },
    spec: {
      group,
      scope: 'Namespaced',
      names: { kind: 'CronTab', plural: 'crontabs', singular: 'crontab' },
      versions: [{ name: 'v1', served: true, storage: true, schema: { openAPIV3Schema: schema } }],
    },
  });
  await watched('/apis/apiextensions.k8s.io/v1/customresourcedefinitions', { fieldSelector: `metadata.name=crontabs.${group}` }, (seen) =>
    seen.at(-1).object.status?.conditions?.some((item) => item.type === 'Established' && item.status === 'True'),
  );
  const tab = { apiVersion: `${group}/v1`, kind: 'CronTab', metadata: { name: 'one', namespace }, spec: { every: 5 } };
  const made = await objects.create(tab);
  assert.deepEqual(made.spec, { every: 5, unit: 'm' });
  tab.spec.every = 6;
  const applied = await objects.patch(tab, undefined, undefined, 'applier', true, ServerSideApply);
  assert.deepEqual([applied.spec.every, applied.metadata.generation], [6, 2]);
  tab.spec.every = 0;
  await refused(422, 'Invalid', () => objects.patch(tab, undefined, undefined, undefined, undefined, MergePatch));
  const list = await objects.list(`${group}/v1`, 'CronTab', namespace);
  assert.equal(list.items.length, 1);
  await config.makeApiClient(k8s.CustomObjectsApi).deleteNamespacedCustomObject({ group, version: 'v1', namespace, plural: 'crontabs', name: 'one' });
  await refused(404, 'NotFound', () => objects.read(made));
}

async function end() {
  const { metadata } = await core.listNamespace();
  const gone = watched(
    '/api/v1/namespaces',
    { fieldSelector: `metadata.name=${namespace}`, resourceVersion: metadata.resourceVersion },
    (seen) => seen.at(-1).type === 'DELETED',
  );
  await core.deleteNamespace({ name: namespace });
  await gone;
}

(async () => {
  for (const part of [basics, patches, listsAndWatches, pods, customObjects, end]) {
    await part();
    console.log('held:', part.name);
  }
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
