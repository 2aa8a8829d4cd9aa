/** What goes wrong on a machine and what a person types then: docs/OPERATIONS.md, as it stands there. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { line } from '../api/runs.ts'
import { startProgram } from '../demo/process.ts'
import { until } from '../site/harness.ts'
import { newFolder, startInstance } from './instance.ts'
import { PAGES } from './pages.ts'
import { PERSON, openRunbook } from './runbook.ts'

const book = openRunbook(PAGES.machines)
const ASK = 'prod machines: web-2 web-3 outage:0'

/** Two machines, and a project of both at the first of them, which is `web-2`. */
async function begun(t: Test, lines = '') {
  const site = await startInstance(t, { lines })
  const [one, next] = [await site.machine('web-2'), await site.machine('web-3')]
  const change = await site.begin(ASK)
  await site.granted(one)
  return { site, one, next, change, values: { CHG0000007: change, CHG: change, MACHINE: 'web-2' } }
}

async function failed(t: Test) {
  const begin = await begun(t)
  await begin.one.fail({ step: 'install', advice: ['mend it'], evidence: ['exit status 1'] }, ['no space left for it'])
  await begin.site.shows(begin.change, /Held:/)
  return begin
}

t.test('[OPS-2] a machine failed: looked at, tried again, left out or resolved', async (t) => {
  for (const choice of ['retry', 'skip', 'resolve'] as const) {
    const { site, one, next, change, values } = await failed(t)
    const page = book.page(t, 'A machine failed', site)
    page.sees('Held: web-2 failed: maintainer-script: ...', await site.text(change))
    if (choice === 'retry') {
      const shown = await page.type('smith status CHG0000007 --json', { values })
      t.match(shown.out, /"cause": "maintainer-script"/)
      t.match(shown.out, /"exit status 1"[^]*"mend it"/, 'the decisive lines, and advice')
      t.match((await page.type('smith logs web-2', { values })).out, /no space left for it/)
      t.match((await page.type('smith report web-2')).out, /^web-2: /)
      const refused = await page.type('smith resume', { values, more: [change], status: 1 })
      t.match(refused.err, /web-2/)
      await page.type('smith retry CHG0000007 web-2', { values })
      await site.granted(one, 2)
      await one.succeed()
    }
    if (choice === 'skip') await page.type('smith skip CHG0000007 web-2 --reason R', { values })
    if (choice === 'resolve') await page.type('smith resolve CHG0000007 web-2 --as succeeded --reason R', { values })
    await site.granted(next)
    const state = { retry: 'succeeded', skip: 'skipped', resolve: 'succeeded' }[choice]
    t.equal(await site.stateOf(change, 'web-2'), state)
  }
})

t.test('[OPS-2] health reports: of a machine, of those that failed, and of one that is gone', async (t) => {
  const { site, one, change, values } = await failed(t)
  const page = book.page(t, 'The health report', site)
  one.report = {
    ...{ at: site.driver.now(), tookMs: 10, run: null },
    findings: [{ text: 'a unit has failed', evidence: 'nginx.service', next: 'systemctl status nginx' }],
    files: [{ name: 'locks.txt', what: 'locks and who holds them', text: 'free' }],
    redacted: {},
  }
  const dir = join(newFolder(t), 'reports')
  await page.type('smith report web-2', { more: ['--output', dir], values: { DIR: dir } })
  t.ok(readdirSync(join(dir, 'web-2')).includes('locks.txt'))
  t.match(readFileSync(join(dir, 'web-2', 'SUMMARY.md'), 'utf8'), `\`smith retry ${change} web-2\``)
  const home = site.home('ana').path
  const before = new Set(readdirSync(home))
  await page.type('smith report --failed CHG0000007', { values })
  const [made = ''] = readdirSync(home).filter((name) => !before.has(name))
  t.same(readdirSync(join(home, made)), ['web-2'], 'a folder for it in a new folder here, and none for the others')
  one.report = null
  one.reportProblem = 'the root half made no report in 180 s (systemctl status smith-report.path smith-report.service)'
  await page.type('smith report', { more: ['web-2', '--output', `${dir}-none`] })
  const summary = () => readFileSync(join(`${dir}-none`, 'web-2', 'SUMMARY.md'), 'utf8')
  page.sees('the root half made no report in 180 s', summary())
  await site.offline(one)
  await page.type('smith report web-2', { more: ['--output', `${dir}-none`] })
  page.sees('**Not from the machine**: it is not connected', summary())
  page.leave('the health report of web-2 could not be kept (ENOSPC)', 'RPT-28')
  page.leave('systemctl status smith-report.path', PERSON)
  page.leave('journalctl -u smith-report -n 50', PERSON)
})

t.test('[OPS-2] what a person looks at on a machine', async (t) => {
  const causes = book.page(t, 'Causes')
  await causes.type('df')
  await causes.type('apt-mark showhold')
  await book.page(t, 'A run is unknown').type('dpkg --audit')
  const worse = book.page(t, 'The machine is worse than before')
  for (const command of ['systemctl --failed', 'ss -ltn', 'ip route', 'journalctl -b']) worse.leave(command, PERSON)
  book.page(t, 'Someone else reboots a machine in its run').leave('reboot --force', PERSON)
})

t.test('[OPS-2] a process that hangs is looked at and ended by its number', async (t) => {
  const page = book.page(t, 'A script hangs')
  const hangs = spawn('sleep', ['600'])
  t.teardown(() => hangs.kill())
  const ended = once(hangs, 'exit')
  const values = { '802': String(hangs.pid), '/proc/802/wchan': `/proc/${hangs.pid}/wchan` }
  if (existsSync('/usr/bin/ps')) t.match((await page.type('ps -fp 802', { values })).out, 'sleep 600')
  else page.leave('ps -fp 802', PERSON)
  await page.type('cat /proc/802/wchan', { values })
  await page.type('kill 802', { values })
  t.same(await ended, [null, 'SIGTERM'])
})

t.test('[OPS-2] a script that hangs is shown with its processes', async (t) => {
  const { site, one, change } = await begun(t)
  const page = book.page(t, 'A script hangs', site)
  const label =
    'Configuring hello; no output for 15 min; at work: 802 (child of 799, 15 min): /bin/sh /var/lib/dpkg/info/hello.postinst configure 1.0'
  await one.records(
    { type: 'step', step: 'claim' },
    { type: 'step', step: 'install' },
    line('Setting up hello (2.0) ...', 0),
    { type: 'progress', step: 'install', percent: 60, label },
  )
  page.sees(
    'Now: web-2 install 60% Configuring hello; no output for 15 min; at work: 802 (child of 799, 15 min): /bin/sh /var/lib/dpkg/info/hello.postinst configure ...',
    await site.shows(change, /no output/),
  )
})

t.test('[OPS-2] a machine that does not come back is resolved as failed, and then retried or skipped', async (t) => {
  const { site, one, change, values } = await begun(t)
  const page = book.page(t, 'A machine does not come back from its reboot', site)
  await one.records(
    { type: 'step', step: 'claim' },
    { type: 'step', step: 'install' },
    { type: 'step', step: 'reboot' },
  )
  await site.shows(change, /Now: web-2 reboot/)
  await site.offline(one)
  await site.move(30 * 60_000)
  const held = await site.shows(change, /Held:/)
  page.sees('Lift:', held)
  t.match(held, `Lift: smith resolve ${change} web-2 --as succeeded|failed --reason REASON`)
  await page.type('smith resolve CHG MACHINE --as failed --reason REASON', { values })
  t.match(await site.text(change), `Lift: smith retry ${change} web-2`)
})

t.test('[OPS-2] a run that is unknown settles by itself, or is resolved by a person', async (t) => {
  for (const choice of ['back', 'succeeded', 'failed'] as const) {
    const { site, one, next, change, values } = await begun(t)
    const page = book.page(t, 'A run is unknown', site)
    await one.records({ type: 'step', step: 'claim' }, { type: 'step', step: 'install' })
    await site.shows(change, /Now: web-2 install/)
    const resolve = 'smith resolve CHG0000007 web-2 --as succeeded --reason R'
    if (choice === 'back') await page.type(resolve, { values, status: 1 })
    await site.offline(one)
    await site.move(2 * 60_000)
    const held = await site.shows(change, /Held:/)
    page.sees('Held: ...', held)
    page.sees('Lift: smith resolve ...', held)
    t.equal(await site.stateOf(change, 'web-2'), 'unknown')
    t.equal(next.grants.length, 0)
    if (choice === 'succeeded') await page.type(resolve, { values })
    if (choice === 'failed') {
      await page.type(resolve, { values: { ...values, succeeded: 'failed' } })
      await site.shows(change, /Held: web-2 failed/)
    }
    if (choice === 'back') {
      await site.online(one)
      await one.end('failed', { cause: 'dpkg-interrupted', latched: true })
      await site.shows(change, /Held: web-2 failed: dpkg-interrupted/)
      await page.type('smith retry', { more: [change, 'web-2'] })
      await site.granted(one, 2)
      await one.succeed()
    }
    if (choice !== 'failed') await site.granted(next)
  }
})

t.test('[OPS-2] a machine that was reinstalled is enrolled in the place of the old one', async (t) => {
  const { site, one, change } = await begun(t)
  const page = book.page(t, 'A machine was reinstalled', site)
  await site.offline(one)
  const made = await page.type('smith enrol new --name web-2 --replace', { by: 'cy' })
  t.match(made.out, /^smith1\.\S+\n$/)
  const folder = newFolder(t)
  const config = join(folder, 'agent.toml')
  writeFileSync(config, agentConfig(folder, site.url))
  const values = { 'https://HOST:7600': site.url, TOKEN: made.out.trim() }
  const typing = { values, more: ['--config', config] }
  const enrol = 'smith-agent enrol --coordinator https://HOST:7600 --token TOKEN'
  const enrolled = await page.type(enrol, typing)
  t.match(enrolled.out, /^Enrolled as web-2 with instance test\.\n/)
  t.match(await site.shows(change, /Held:/), /Held: web-2 failed: unreachable: web-2 was reinstalled/)
  await page.type(enrol, { ...typing, status: 1, more: [...typing.more, '--force'] })
  await figuresOf(t, config, join(folder, 'out'))
})

/** An agent of its own, without systemd, that touches nothing of this machine. */
function agentConfig(folder: string, url: string): string {
  return `coordinator = "${url}"\nstate_dir = "${folder}/state"\nlog_file = "${folder}/agent.log"\n[run]\nmode = "detached"\n`
}

/** Of that agent while it runs. */
async function figuresOf(t: Test, config: string, log: string) {
  const page = book.page(t, 'What the agent costs a machine')
  const typing = { more: ['--config', config, '--minutes', '1'], status: 1 }
  const none = await page.type('smith-agent figures', typing)
  t.match(none.err, /no agent runs on this machine/)
  const agent = startProgram('agent/main.ts', ['run', '--config', config], { log })
  t.teardown(() => agent.stop())
  await agent.line((text) => /connected/.test(text))
  const asked = ['--config', config, '--minutes', '0.01', '--json']
  const figures = await page.type('smith-agent figures', { more: asked })
  const values: Record<string, unknown> = JSON.parse(figures.out)
  for (const key of ['residentBytes', 'proportionalBytes', 'anonymousBytes', 'processorMs', 'wakeUps'])
    t.type(values[key], 'number', key)
}

t.test('[OPS-2] a machine of which there are two is in quarantine until one is enrolled anew', async (t) => {
  const site = await startInstance(t)
  const page = book.page(t, 'A machine is quarantined', site)
  const one = await site.machine('web-2')
  await site.offline(one)
  one.goBack(1)
  one.connect()
  const shown = await until('it is in quarantine', async () => {
    const { machines } = await site.ask<{ machines: { quarantined: string | null }[] }>('GET', '/machines')
    return machines[0]?.quarantined ?? undefined
  })
  t.ok(shown)
  t.match((await page.type('smith machines')).out, /web-2 .*quarantined: /)
  const again = book.page(t, 'A machine was reinstalled', site)
  const { out } = await again.type('smith enrol new --name web-2 --replace', { by: 'cy' })
  one.leave()
  await one.enrol((body) => site.ask('POST', '/enrol', { token: out.trim(), ...body }))
  await site.online(one)
  t.notMatch((await page.type('smith machines')).out, /quarantined/)
  page.leave('--replace', 'OPS-2')
})

t.test('[OPS-2] a run that was signalled fails, and a retry repairs it', async (t) => {
  const { site, one, change } = await begun(t)
  const page = book.page(t, 'What a stolen agent can do', site)
  await one.fail({ cause: 'dpkg-interrupted' })
  await site.shows(change, /Held: web-2 failed: dpkg-interrupted/)
  await page.type('smith retry', { more: [change, 'web-2'] })
  await site.granted(one, 2)
  page.leave('systemctl stop', 'HST-68')
  page.leave('systemctl kill smith-run', 'HST-68')
  page.leave('--replace', 'OPS-2')
})

t.test('[OPS-3] nothing that these sections say is untried', (t) => {
  t.same(book.left(), [])
  t.end()
})
