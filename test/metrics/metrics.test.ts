/**
 * What Prometheus reads: who may, that promtool finds nothing wrong in it, that the figures are those of what happened,
 * and that the alert rules and the Grafana dashboard in docs/monitoring name only what is there.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createMetrics } from '../../coordinator/metrics.ts'
import { advance } from '../api/world.ts'
import { createTime } from '../sim/time.ts'
import { CHECKOUT } from '../demo/process.ts'
import { must } from '../coordinator/agent.ts'
import { RELEASE, type World, createWorld } from '../api/world.ts'
import { line, withRuns } from '../api/runs.ts'

const RULES = join(CHECKOUT, 'docs/monitoring/smith-alerts.yml')
const GRAFANA = join(CHECKOUT, 'docs/monitoring/smith-grafana.json')
const noPromtool =
  spawnSync('promtool', ['--version']).status === 0 ? null : 'there is no promtool (Debian package prometheus)'

async function createMeasured(t: Test, clock = createTime(1_700_000_000_000)) {
  let world: World | null = null
  let kept: ReturnType<typeof createMetrics> | null = null
  const made = await createWorld(t, {
    clock: { wallNow: clock.now, monotonicNow: clock.now, after: clock.after },
    ports: ({ driver, store }) => {
      const feedClients = () => world?.api.feedClients() ?? 0
      kept = createMetrics({ driver, store, instance: 'test', version: '1.2.3', feedClients, withProcess: true })
      return { metrics: kept.text }
    },
  })
  world = made
  t.teardown(() => kept?.stop())
  const read = async () => (await made.ask('GET', '/metrics', { token: made.tokens['vi'] })).text
  return { world: made, clock, read, committed: (seconds: number) => kept?.committed(seconds) }
}

/** The value of a series, by its name and some of its labels. */
function valueOf(text: string, name: string, labels: Readonly<Record<string, string>> = {}): number | undefined {
  const found = text.split('\n').find((row) => {
    const [head = ''] = row.split(' ')
    return (
      (head === name || head.startsWith(`${name}{`)) &&
      Object.entries(labels).every(([key, value]) => head.includes(`${key}="${value}"`))
    )
  })
  return found === undefined ? undefined : Number(found.split(' ').at(-1))
}

t.test('[MET-1] only who may look reads the metrics', async (t) => {
  const { world } = await createMeasured(t)
  t.equal((await world.ask('GET', '/metrics')).status, 401)
  t.equal((await world.ask('GET', '/metrics', { token: `smithp_${'x'.repeat(43)}` })).status, 401)
  for (const way of [{ token: world.tokens['vi'] }, { socket: true }]) {
    const answer = await world.ask('GET', '/metrics', way)
    t.equal(answer.status, 200)
    t.match(answer.headers, { 'content-type': /^text\/plain; version=0\.0\.4/, 'cache-control': 'no-store' })
  }
  const bare = await createWorld(t)
  t.equal((await bare.call('who', 'vi')).status, 200)
  t.equal((await bare.ask('GET', '/metrics', { token: bare.tokens['vi'] })).status, 404, 'absent where nothing is kept')
})

t.test('[MET-2] the figures are those of what happened: runs, steps, records, stops, machines', async (t) => {
  const { world, clock, read, committed } = await createMeasured(t)
  const names = [1, 2, 3].map((n) => `prod-dal10-carrier1-worker-${n}`)
  const machines = await Promise.all(names.map(async (name) => withRuns(world, await world.machine(name))))
  await world.machine('prod-dal10-gone-worker-1', { online: false })
  const [first, second] = machines
  const one = must(first)
  const two = must(second)
  const change = await world.raise('prod machines: prod-dal10-carrier1-worker-* outage:0')
  t.equal(valueOf(await read(), 'smith_projects', { state: 'pending' }), 1)
  await world.call('approve', 'bo', { params: { change }, body: { digest: await world.digest(change) } })
  const settle = async (done: () => boolean) => {
    while (!done()) await new Promise((resolve) => setImmediate(resolve))
  }
  await settle(() => one.grants.length > 0)
  t.equal(valueOf(await read(), 'smith_clusters_busy'), 1)
  await one.records({ type: 'step', step: 'claim' })
  advance(clock, 4_000)
  await one.records({ type: 'step', step: 'install' }, line('Unpacking ...', 0))
  advance(clock, 40_000)
  await one.succeed()
  await settle(() => two.grants.length > 0)
  await two.fail({ cause: 'disk' })
  advance(clock, 60_000)
  committed(0.002)
  const text = await read()
  t.equal(valueOf(text, 'smith_runs_total', { outcome: 'succeeded' }), 1)
  t.equal(valueOf(text, 'smith_runs_total', { outcome: 'failed', cause: 'disk' }), 1)
  t.equal(valueOf(text, 'smith_run_duration_seconds_sum', { outcome: 'succeeded' }), 44)
  t.equal(valueOf(text, 'smith_step_duration_seconds_sum', { step: 'claim' }), 4)
  t.equal(valueOf(text, 'smith_step_duration_seconds_bucket', { step: 'install', le: '60' }), 3)
  t.equal(valueOf(text, 'smith_grant_latency_seconds_count'), 1, 'from the first to the second machine')
  t.equal(valueOf(text, 'smith_commit_duration_seconds_count'), 1)
  const records = world.store.orders({ machine: one.id }).concat(world.store.orders({ machine: two.id }))
  t.equal(
    valueOf(text, 'smith_log_records_total'),
    records.reduce((sum, order) => sum + order.upTo, 0),
  )
  t.equal(valueOf(text, 'smith_stops', { kind: 'hold', reason: 'failed' }), 1)
  t.equal(valueOf(text, 'smith_stops', { kind: 'hold', reason: 'paused' }), 0)
  t.equal(valueOf(text, 'smith_oldest_hold_seconds'), 60)
  t.equal(valueOf(text, 'smith_machines', { state: 'ready' }), 3)
  t.equal(valueOf(text, 'smith_machines', { state: 'offline' }), 1)
  t.equal(valueOf(text, 'smith_agents_connected'), 3)
  t.equal(valueOf(text, 'smith_frozen'), 0)
  t.equal(valueOf(text, 'smith_journal_rev'), world.driver.rev())
  await world.call('retry', 'ana', { params: { change }, body: { machine: names[1] } })
  await settle(() => two.grants.length > 1)
  t.equal(
    valueOf(await read(), 'smith_grant_latency_seconds_count'),
    1,
    'a hold says nothing about how quick a grant is',
  )
  await world.call('freeze', 'cy', { body: { reason: 'x' } })
  t.equal(valueOf(await read(), 'smith_frozen'), 1)
})

t.test('[MET-2] an unknown run is counted with its age, and the archive of a plan with its date', async (t) => {
  const { world, clock, read } = await createMeasured(t)
  const machine = withRuns(world, await world.machine('prod-dal10-web-worker-1'))
  const change = await world.raise('prod machines: prod-dal10-web-worker-1 outage:0')
  await world.call('approve', 'bo', { params: { change }, body: { digest: await world.digest(change) } })
  while (machine.grants.length === 0) await new Promise((resolve) => setImmediate(resolve))
  await machine.records({ type: 'step', step: 'claim' }, { type: 'step', step: 'install' })
  await machine.end('unknown')
  advance(clock, 30_000)
  const text = await read()
  t.equal(valueOf(text, 'smith_unknown_orders'), 1)
  t.equal(valueOf(text, 'smith_oldest_unknown_seconds'), 30)
  t.equal(valueOf(text, 'smith_stops', { kind: 'hold', reason: 'unknown' }), 1)
  const uri = 'http://archive.example/debian'
  t.equal(valueOf(text, 'smith_archive_release_timestamp_seconds', { uri, suite: 'prod' }), 1_699_999_000)
  t.equal(valueOf(text, 'smith_archive_valid_until_timestamp_seconds', { uri, suite: 'prod' }), 1_700_600_000)
  t.notMatch(text, /secret/, 'what logs in to an archive is in no label')
})

t.test('[MET-2] plans are counted for as long as the machine has not answered', async (t) => {
  const { world, read } = await createMeasured(t)
  const machine = await world.machine('prod-dal10-web-worker-1', { plans: false })
  const raised = world.raise('prod machines: prod-dal10-web-worker-1 outage:0')
  while (valueOf(await read(), 'smith_plans_awaited') !== 1) await new Promise((resolve) => setImmediate(resolve))
  await machine.answerPlans()
  await raised
  t.equal(valueOf(await read(), 'smith_plans_awaited'), 0)
})

t.test('[MET-5] an archive is told by the plans of open changes, as they were made last', async (t) => {
  const { world, read } = await createMeasured(t)
  const [one, two] = ['prod-dal10-web-worker-1', 'prod-dal10-db-worker-1']
  const machines = [await world.machine(one, { plans: false }), await world.machine(two, { plans: false })]
  const uri = 'https://ann:p@ss@[2001:db8::1]:8080/debian;x?token=secret#secret'
  const raise = async (name: string, seconds: number) => {
    const raised = { change: '' }
    const raising = world.raise(`prod machines: ${name} outage:0`).then((change) => (raised.change = change))
    while (raised.change === '') {
      for (const machine of machines) await machine.answerPlans({ ...RELEASE, uri, date: seconds * 1000 })
      await new Promise((resolve) => setImmediate(resolve))
    }
    await raising
    return raised.change
  }
  const dateNow = async () =>
    valueOf(await read(), 'smith_archive_release_timestamp_seconds', {
      uri: 'https://[2001:db8::1]:8080/debian;x',
      suite: 'prod',
    })
  const first = await raise(one, 1_600_000_000)
  t.equal(await dateNow(), 1_600_000_000)
  t.notMatch(await read(), /p@ss|secret/, 'what logs in to an archive is in no label')
  await world.call('cancel', 'ana', { params: { change: first }, body: {} })
  t.equal(await dateNow(), undefined, 'a change that is closed raises no alarm')
  await raise(one, 1_600_050_000)
  t.equal(await dateNow(), 1_600_050_000, 'nor does what the same plan was once made from')
  await raise(two, 1_600_060_000)
  t.equal(await dateNow(), 1_600_060_000, 'also while a change with that plan is open')
})

t.test('[MET-3] promtool finds nothing wrong with the metrics', { skip: noPromtool ?? false }, async (t) => {
  const { world, read } = await createMeasured(t)
  const machine = withRuns(world, await world.machine('prod-dal10-web-worker-1'))
  const change = await world.raise('prod machines: prod-dal10-web-worker-1 outage:0')
  await world.call('approve', 'bo', { params: { change }, body: { digest: await world.digest(change) } })
  while (machine.grants.length === 0) await new Promise((resolve) => setImmediate(resolve))
  await machine.succeed()
  const done = spawnSync('promtool', ['check', 'metrics'], { input: await read(), encoding: 'utf8' })
  t.same([done.status, done.stdout, done.stderr], [0, '', ''])
  const bad = spawnSync('promtool', ['check', 'metrics'], { input: '# TYPE a_ms gauge\na_ms 1\n', encoding: 'utf8' })
  t.not(bad.status, 0, 'and it would')
})

t.test('[MET-4] the alert rules are good, and fire for an unknown run', { skip: noPromtool ?? false }, async (t) => {
  const check = spawnSync('promtool', ['check', 'rules', RULES], { encoding: 'utf8' })
  t.equal(check.status, 0, check.stderr)
  const dir = mkdtempSync(join(tmpdir(), 'smith-rules-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const cases = join(dir, 'cases.yml')
  writeFileSync(cases, CASES)
  const tested = spawnSync('promtool', ['test', 'rules', cases], { encoding: 'utf8' })
  t.equal(tested.status, 0, tested.stdout + tested.stderr)
})

t.test('[MET-4] the alert rules and the Grafana dashboard name only metrics that are there', async (t) => {
  const { read } = await createMeasured(t)
  const text = await read()
  const known = new Set([...text.matchAll(/^# TYPE (\S+)/gm)].map((match) => match[1] ?? ''))
  const used = [readFileSync(RULES, 'utf8'), readFileSync(GRAFANA, 'utf8')].flatMap((file) =>
    [...file.matchAll(/smith_[a-z_]+/g)].map(([name]) => name),
  )
  t.ok(new Set(used).size > 12)
  for (const name of new Set(used)) t.ok(known.has(name.replace(/_(bucket|sum|count)$/, '')), name)
  t.ok((JSON.parse(readFileSync(GRAFANA, 'utf8')) as { panels: unknown[] }).panels.length > 10)
})

const CASES = `rule_files: [${RULES}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: smith_unknown_orders{instance_name="prod"}
        values: 0 0 1 1 1 1
      - series: smith_machines{instance_name="prod", state="offline"}
        values: 3x30
      - series: smith_machines{instance_name="prod", state="ready"}
        values: 7x30
      - series: smith_stops{instance_name="prod", kind="hold", reason="frozen"}
        values: 1x30
    alert_rule_test:
      - eval_time: 1m
        alertname: SmithUnknown
      - eval_time: 4m
        alertname: SmithUnknown
        exp_alerts:
          - exp_labels: { severity: critical, instance_name: prod }
            exp_annotations:
              summary: 1 runs in prod are unknown.
              description: They block their lines. smith status CHG names the machine; look at it, then smith resolve.
      - eval_time: 20m
        alertname: SmithAgentsGone
        exp_alerts:
          - exp_labels: { severity: warning, instance_name: prod }
            exp_annotations:
              summary: More than a fifth of the machines of prod are not connected.
              description: smith machines lists them. One network, one certificate, or one upgrade is likelier than many machines.
      - eval_time: 20m
        alertname: SmithHeld
`
