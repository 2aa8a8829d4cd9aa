/**
 * Changes at ServiceNow with real programs: coordinator, agents, apt and dpkg, and the stand-in over real HTTP. The
 * coordinator is killed at the first call of each kind, before and after it is done, and started again.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startProgram } from '../demo/process.ts'
import { GROUP } from '../servicenow/records.ts'
import { type Call, SECRET, StandIn, serveStandIn } from '../servicenow/stand-in.ts'
import { call, isOver, machinesOf, machinesWith, publish, startSite, until, untilStatus } from './harness.ts'

const [A, B] = ['prod-dal10-web-1', 'prod-dal11-web-1'] as const

async function startSnow(t: Test) {
  const dir = mkdtempSync(join(tmpdir(), 'smith-snow-'))
  const standIn = new StandIn()
  const { url, close } = await serveStandIn(standIn)
  t.teardown(async () => {
    await close()
    rmSync(dir, { recursive: true, force: true })
  })
  const secretFile = join(dir, 'secret')
  writeFileSync(secretFile, `${SECRET}\n`, { mode: 0o600 })
  const site = await startSite(t, {
    limits: 'change_poll = 0.3\npermission_retry = 0.3\nsilence_max = 600',
    change: `provider = "servicenow"
local_admin_may_approve = true
[change.servicenow]
url = "${url}"
client_id = "smith"
secret_file = "${secretFile}"
assignment_group = "${GROUP}"
settle = 0.5
retry_min = 0.1
retry_max = 1
poll = 0.5`,
  })
  await publish(site, [{ name: 'hello', version: '1.1' }])
  await machinesWith(site, [A, B], [await site.build({ name: 'hello', version: '1.0' })])
  return { site, standIn }
}

/** Of which kind a call is: its path without what is of one record only. */
const kindOf = ({ method, path, body }: Call) =>
  `${method} ${path.replaceAll(/[0-9a-f]{32}/g, 'ID')} ${body['state'] ?? ''}`

t.test(
  '[SNW-30] approved in ServiceNow machines are patched, and no kill at any kind of call makes a second change or forgets a task',
  async (t) => {
    const { site, standIn } = await startSnow(t)
    const { records } = standIn
    const killed = new Set<string>()
    let kills = 0
    let reviving: Promise<void> | null = null
    let isCut = false
    standIn.onCall = (made, when) => {
      const kind = `${when} ${kindOf(made)}`
      // What only reads changes nothing: to die before or after it is the same.
      if (reviving !== null || killed.has(kind) || (when === 'after' && made.method === 'GET')) return
      killed.add(kind)
      kills += 1
      isCut = when === 'before'
      site.coordinator?.child.kill('SIGKILL')
      reviving = (async () => {
        await site.coordinator?.ended
        await site.startCoordinator()
        reviving = null
      })()
    }
    standIn.fault = () => {
      if (!isCut) return undefined
      isCut = false
      return 'cut'
    }
    const made = await call<{ request: string }>(site, 'POST', '/requests', {
      text: `prod machines: ${A} ${B} outage:0`,
    })
    t.equal(made.status, 202)
    const change = await until('the approval to be asked for', () =>
      records.all('change_request').find((row) => row['state'] === '-4'),
    )
    const number = change['number'] ?? ''
    await untilStatus(site, number, 'its number', (status) => status.state === 'pending')
    records.approve(number)
    const status = await untilStatus(site, number, 'its end', isOver)
    t.equal(status.state, 'complete', JSON.stringify(machinesOf(status)))
    await until('the close', () => records.byNumber(number)['state'] === '3' && reviving === null)
    t.match(records.byNumber(number), { close_code: 'successful' })
    t.equal(records.all('change_request').length, 1, 'one change')
    const tasks = records.tasksOf(records.byNumber(number))
    t.equal(tasks.length, 4, 'one task for each bag, and those of the flow')
    t.ok(tasks.every((task) => task['state'] === '3'))
    const notes = records.all('sys_journal_field').map((row) => row['value'] ?? '')
    t.equal(new Set(notes).size, notes.length, 'no note stands twice')
    for (const name of [A, B]) t.equal(notes.filter((note) => note.startsWith(`${name}: succeeded`)).length, 1)
    t.equal(records.all('sys_attachment').length, 1)
    t.ok(kills > 12, `${kills} kills at ${[...killed].join('; ')}`)
    for (const name of [A, B]) t.equal((await site.machine(name).root.status('hello'))?.version, '1.1')

    standIn.onCall = () => {}
    const text = await site.smith('status', number)
    t.match(text.stdout, /^CHANGE: http:\/\/127\.0\.0\.1:[0-9]+\/nav_to\.do\?uri=change_request\.do/m)
    const approve = await site.smith('approve', number)
    t.match(approve, { status: 1, stderr: /Open: http:\/\/127\.0\.0\.1/ })
    const doctor = await site.smith('doctor')
    t.match(doctor.stdout, /ok: reach: .* answers[^]*ok: assignment_group: Linux operations/)
  },
)

t.test('[SNW-31] a coordinator does not start with another provider than that of its open changes', async (t) => {
  const { site, standIn } = await startSnow(t)
  const made = await call<{ request: string }>(site, 'POST', '/requests', { text: `prod machines: ${A} outage:0` })
  t.equal(made.status, 202)
  await until('the change', () => standIn.records.all('change_request')[0]?.['state'] === '-4')
  await site.coordinator?.stop('SIGTERM')
  const file = join(site.dir, 'local.toml')
  writeFileSync(
    file,
    `instance = "demo"\nlisten = "127.0.0.1:0"\nstate_dir = "${join(site.dir, 'coordinator')}"\nadmin_socket = "${site.socket}"\n`,
  )
  const program = startProgram('coordinator/main.ts', ['run', '--config', file], { log: join(site.dir, 'other.log') })
  const line = await program.line((text) => text.includes('error:'))
  t.match(line, /1 open change was raised with the change provider "servicenow"/)
  t.equal((await program.ended).status, 1)
})
