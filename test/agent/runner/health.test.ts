/** The machine's health before and after: what counts as worse, how it is read, and runs that end by it. */
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { textOf } from '../../../agent/apt/kernel.ts'
import { isWatched, parseUnits, type Unit } from '../../../agent/apt/units.ts'
import {
  compareHealth,
  type Health,
  parseBound,
  parseListening,
  parseNameservers,
  parseRoutes,
} from '../../../agent/runner/health.ts'
import type { Connected } from '../../../agent/runner/ports.ts'
import { connect } from '../../../agent/runner/real-ports.ts'
import { listen, makeKeys } from '../../sessions/wire.ts'
import { play } from './booted.ts'
import { createMachine, until } from './machine.ts'

const unit = (id: string, active = 'active', changes: Partial<Unit> = {}): Unit => ({
  id,
  active,
  load: 'loaded',
  sub: 'running',
  file: 'enabled',
  isTriggered: false,
  ...changes,
})
const health = (changes: Partial<Health> = {}): Health => ({
  at: 0,
  bootId: 'a',
  kernel: 'k',
  units: [],
  listening: [],
  bound: [],
  routes: [],
  nameservers: [],
  coordinator: { address: 'h:7600', how: 'connected', problem: null },
  absent: [],
  ...changes,
})
const compare = (before: Partial<Health>, after: Partial<Health>, hasRemovals = false) => {
  const { worse, notes } = compareHealth(health(before), health(after), { ephemeralFrom: 32_768, hasRemovals })
  return { worse: worse.map((one) => `${one.text}${one.isFinal ? '!' : ''}`), notes: [...notes] }
}

t.test(
  '[HLT-1] a unit that failed or is gone is worse; what rests, was failed before or is not ours is not',
  async (t) => {
    const before = [
      unit('web.service'),
      unit('db.service'),
      unit('sick.service', 'failed'),
      unit('cups.service', 'active', { isTriggered: true }),
      unit('hostnamed.service', 'active', { file: 'static' }),
      unit('dbus.service', 'active', { file: 'static', isTriggered: true }),
      unit('byhand.service', 'active', { file: 'disabled' }),
      unit('smith-agent.service'),
      unit('smith-report.service', 'inactive'),
      unit('gone.service'),
    ]
    const at = (states: Record<string, string>) =>
      before.map((one) => ({
        ...one,
        active: states[one.id] ?? one.active,
        ...(states[one.id] === 'none' ? { active: 'inactive', load: 'not-found' } : {}),
      }))
    t.same(compare({ units: before }, { units: before }), { worse: [], notes: [] })
    t.same(compare({ units: before }, { units: at({ 'sick.service': 'active' }) }).worse, [])
    const after = at({
      'web.service': 'failed',
      'db.service': 'inactive',
      'cups.service': 'inactive',
      'hostnamed.service': 'inactive',
      'dbus.service': 'inactive',
      'byhand.service': 'inactive',
      'smith-agent.service': 'inactive',
      'smith-report.service': 'failed',
      'gone.service': 'none',
    })
    t.same(compare({ units: before }, { units: after }), {
      worse: [
        'unit web.service has failed!',
        'unit db.service was active and is inactive',
        'unit dbus.service was active and is inactive',
        'unit byhand.service was active and is inactive',
      ],
      notes: ['unit gone.service was active and is no longer on this machine'],
    })
    const booted = compare({ units: before }, { bootId: 'b', units: after }).worse
    t.notOk(booted.join().includes('byhand'), 'what was started by hand need not come back after a boot')
    t.ok(isWatched(unit('x.timer'), true))
    t.same(compare({ units: before }, { units: null }).worse, ['systemctl does not answer any more'])
    t.same(
      compare({ units: null }, { units: at({ 'web.service': 'failed' }) }).worse,
      [],
      'what was not known is not worse',
    )
    t.same(
      compare({ units: [] }, { units: [unit('new.service', 'failed')] }).worse,
      ['unit new.service has failed!'],
      'a unit that the install brought counts when it fails',
    )
  },
)

t.test('[HLT-2] ports, default routes and nameservers that are gone are worse', async (t) => {
  const open = (port: number) => ({ port, isOpen: true })
  const own = (port: number) => ({ port, isOpen: false })
  t.same(compare({ listening: [open(22), own(25)] }, { listening: [open(25), open(22), open(80)] }).worse, [])
  t.same(compare({ listening: [open(22), open(443), open(40_000)] }, { listening: [own(443)] }), {
    worse: ['nothing listens on TCP port 22 any more', 'TCP port 443 is open to this machine alone now'],
    notes: ['nothing listens on TCP port 40000 any more'],
  })
  t.same(compare({ routes: ['IPv4 by eth0', 'IPv6 by eth0'] }, { routes: ['IPv4 by ens3'] }).worse, [
    'the IPv6 default route is gone',
  ])
  t.same(compare({ routes: ['IPv4 by eth0'] }, { routes: ['IPv4 by ens3'] }), {
    worse: [],
    notes: ['default routes were IPv4 by eth0 and are IPv4 by ens3'],
  })
  t.same(compare({ nameservers: ['10.0.0.1'] }, { nameservers: [] }).worse, [
    'resolv.conf names no nameserver any more',
  ])
  t.same(compare({ nameservers: [] }, { nameservers: [] }).worse, [])
})

t.test(
  '[RUN-58] a UDP port that a service is known by and nobody has any more is worse; of others it is told',
  async (t) => {
    const open = (port: number) => ({ port, isOpen: true })
    const ports = [53, 68, 123, 161, 546, 599, 600, 1812, 40_000]
    t.same(compare({ bound: ports.map(open) }, { bound: ports.map(open) }), { worse: [], notes: [] })
    t.same(compare({ bound: ports.map(open) }, { bound: [{ port: 161, isOpen: false }] }), {
      worse: [
        'nothing is bound to UDP port 53 any more',
        'nothing is bound to UDP port 123 any more',
        'UDP port 161 is open to this machine alone now',
        'nothing is bound to UDP port 599 any more',
      ],
      notes: [600, 1812, 40_000].map((port) => `nothing is bound to UDP port ${port} any more`),
    })
    t.same(compare({ bound: null }, { bound: [] }), { worse: [], notes: [] }, 'a picture of an older runner')
  },
)

t.test('[RUN-59] ports that are gone with a service whose removal was approved are told and no failure', async (t) => {
  const before = {
    units: [unit('web.service'), unit('db.service')],
    listening: [{ port: 80, isOpen: true }],
    bound: [{ port: 53, isOpen: true }],
  }
  const gone = {
    units: [unit('web.service', 'inactive', { load: 'not-found' }), unit('db.service')],
    listening: [],
    bound: [],
  }
  const texts = ['nothing listens on TCP port 80 any more', 'nothing is bound to UDP port 53 any more']
  t.same(compare(before, gone, true), {
    worse: [],
    notes: ['unit web.service was active and is no longer on this machine', ...texts],
  })
  t.same(compare(before, gone, false).worse, texts, 'no removal was approved')
  t.same(compare(before, { ...gone, units: before.units }, true).worse, texts, 'no service went with the removal')
})

t.test(
  '[HLT-3] a new connection that no longer comes about is worse, a coordinator that is not up is not',
  async (t) => {
    const to = (how: Connected['how'], problem: string | null = null) => ({
      coordinator: { address: 'h:7600', how, problem },
    })
    t.same(compare(to('connected'), to('unreachable', 'ETIMEDOUT')).worse, [
      'no new connection to the coordinator at h:7600 comes about (ETIMEDOUT)',
    ])
    t.same(compare(to('refused'), to('unreachable', 'EHOSTUNREACH')).worse.length, 1)
    t.same(compare(to('unreachable'), to('unreachable')).worse, [])
    t.match(compare(to('connected'), to('unknown', 'ENOENT')), { worse: [], notes: [/could not be tried: ENOENT/] })
    t.same(compare(to('unknown'), to('unreachable')).worse, [])
    t.match(compare(to('connected'), to('refused', 'ECONNREFUSED')), {
      worse: [],
      notes: [/answers, it itself does not/],
    })
  },
)

t.test('[HLT-4] what systemd and the kernel say is read as they write it', async (t) => {
  // systemd 252: `systemctl show --property=... -- '*.service' nosuch.service`.
  const text = `Id=nosuch.service\nTriggeredBy=\nLoadState=not-found\nActiveState=inactive\nSubState=dead\nUnitFileState=\n\nId=systemd-network-generator.service\nTriggeredBy=\nLoadState=loaded\nActiveState=active\nSubState=exited\nUnitFileState=enabled\n\nId=dbus.service\nTriggeredBy=dbus.socket\nLoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=static\n`
  t.same(parseUnits(text), [
    unit('nosuch.service', 'inactive', { load: 'not-found', sub: 'dead', file: '' }),
    unit('systemd-network-generator.service', 'active', { sub: 'exited' }),
    unit('dbus.service', 'active', { file: 'static', isTriggered: true }),
  ])
  const tcp =
    '  sl  local_address rem_address   st\n   0: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000\n   1: 00000000:0016 00000000:0000 0A 0\n   2: 0100007F:A1B2 0100007F:0016 01 0\n   0: 00000000000000000000000001000000:1DB0 00000000000000000000000000000000:0000 0A 0\n   1: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 0\n   2: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 0\n'
  t.same(parseListening(tcp), [
    { port: 53, isOpen: false },
    { port: 22, isOpen: true },
    { port: 7600, isOpen: false },
    { port: 443, isOpen: true },
    { port: 80, isOpen: false },
  ])
  // Line numbers of udp are those of its hash table; a client that has its server is connected, state 01.
  const udp =
    '   sl  local_address rem_address   st\n  379: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 19 2 x 0\n 1423: 00000000:007B 00000000:0000 07 0\n 1424: 0A00000A:007C 0B00000A:0035 01 0\n'
  t.same(parseBound(udp), [
    { port: 53, isOpen: false },
    { port: 123, isOpen: true },
  ])
  const v4 =
    'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n'
  const zero = '0'.repeat(32)
  const v6 = `${zero} 00 ${zero} 00 fe80000000000000000000000000000a 00000400 00000001 00000000 00000003     eth1\n${zero} 00 ${zero} 00 ${zero} ffffffff 00000001 00000000 00200200       lo\n`
  t.same(parseRoutes(v4, v6), ['IPv4 by eth0', 'IPv6 by eth1'])
  t.same(
    parseRoutes('', `${zero} 00 ${zero} 00 ${zero} ffffffff 1 0 00200200 eth0\n`),
    [],
    'a route that rejects is none',
  )
  t.same(parseNameservers('# nameserver 1.1.1.1\nnameserver 10.0.0.2\n nameserver ::1\nsearch x\n'), [
    '10.0.0.2',
    '::1',
  ])
  const folder = mkdtempSync(join(tmpdir(), 'smith-health-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  writeFileSync(join(folder, 'stub'), 'nameserver 127.0.0.53\n')
  symlinkSync('stub', join(folder, 'resolv.conf'))
  t.same(parseNameservers(textOf(join(folder, 'resolv.conf')) ?? ''), ['127.0.0.53'], 'a link is followed')
  t.equal(textOf(join(folder, 'none')), null)
  const server = createServer()
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  t.match(
    parseListening(textOf('/proc/net/tcp') ?? '').filter((one) => one.port === port),
    [{ isOpen: false }],
    'of this very machine',
  )
})

t.test('[HLT-5] a connection is tried with TLS, and its end is connected, refused or unreachable', async (t) => {
  const wire = await listen(await makeKeys())
  const trying = (port: number, timeoutMs = 10_000) =>
    new Promise<Connected>((resolve) => connect({ host: '127.0.0.1', port }, timeoutMs, resolve))
  t.same(await trying(wire.port), { how: 'connected', problem: null })
  await wire.close()
  t.same(await trying(wire.port), { how: 'refused', problem: 'ECONNREFUSED' })
  const mute = createServer()
  await new Promise<void>((resolve) => void mute.listen(0, '127.0.0.1', resolve))
  t.teardown(() => mute.close())
  const { port } = mute.address() as AddressInfo
  t.match(await trying(port, 200), { how: 'unreachable', problem: 'no answer in 0.2 s' })
})

t.test('[HLT-6] a run that leaves the machine worse fails with what got worse, after the time to settle', async (t) => {
  const base = mkdtempSync(join(tmpdir(), 'smith-health-'))
  t.teardown(() => rmSync(base, { recursive: true }))
  const failed = play(join(base, 'a'), {
    outageMinutes: 0,
    web: ({ isInstalled }) => (isInstalled ? 'failed' : 'active'),
  })
  t.match(failed.result, { outcome: 'failed', cause: 'check', step: 'post-checks', latched: true })
  t.equal(failed.result.message, 'the machine is worse than before: unit web.service has failed')
  t.same(failed.result.evidence, ['unit web.service has failed'])
  const settled = failed.records.find((one) => one.type === 'step' && one.step === 'post-checks')
  t.ok(failed.result.at - (settled?.at ?? 0) >= 5000, 'five seconds unless the configuration says otherwise')
  const quick = play(join(base, 'b'), { outageMinutes: 0, tables: '[limits]\nsettle = 0\n' })
  const begun = quick.records.find((one) => one.type === 'step' && one.step === 'post-checks')
  t.match(quick.result, { outcome: 'succeeded' }, 'a unit that was failed before is no fault of the run')
  t.ok(quick.result.at - (begun?.at ?? 0) < 1000)
  let isInstalledAt = 0
  const slow = play(join(base, 'c'), {
    outageMinutes: 0,
    web: ({ sinceMs, isInstalled }) => {
      if (isInstalled && isInstalledAt === 0) isInstalledAt = sinceMs
      return !isInstalled || sinceMs - isInstalledAt > 12_000 ? 'active' : 'activating'
    },
  })
  t.match(slow.result, { outcome: 'succeeded' }, 'what comes back in time is waited for')
  t.ok(slow.notes.some((note) => note === 'health: not yet as before: unit web.service was active and is activating'))
})

t.test(
  '[HLT-9] a machine that is cut off waits longer for its way back than one that only can make no new connection',
  async (t) => {
    const base = mkdtempSync(join(tmpdir(), 'smith-health-'))
    t.teardown(() => rmSync(base, { recursive: true }))
    const cutFor = (ms: number) => {
      let installedAt = 0
      return ({ sinceMs, isInstalled }: { sinceMs: number; isInstalled: boolean }) => {
        if (isInstalled && installedAt === 0) installedAt = sinceMs
        return installedAt === 0 || sinceMs - installedAt > ms
      }
    }
    const secondsAfter = ({ records, result }: ReturnType<typeof play>) =>
      (result.at - (records.find((one) => one.type === 'step' && one.step === 'post-checks')?.at ?? 0)) / 1000
    const back = play(join(base, 'a'), { outageMinutes: 0, acks: false, isReached: cutFor(600_000) })
    t.match(back.result, { outcome: 'succeeded' })
    t.ok(back.notes.some((note) => /^health: as before again, 60\d s later$/.test(note)))
    const gone = play(join(base, 'b'), { outageMinutes: 0, acks: false, isReached: cutFor(Number.MAX_SAFE_INTEGER) })
    t.match(gone.result, { outcome: 'failed', cause: 'check', message: /no new connection to the coordinator/ })
    t.ok(secondsAfter(gone) >= 935)
    const half = play(join(base, 'c'), { outageMinutes: 0, isReached: cutFor(600_000) })
    t.match(half.result, { outcome: 'failed', cause: 'check', message: /no new connection to the coordinator/ })
    t.ok(secondsAfter(half) < 60, 'its old connection stands, so the way is there and only new ones fail')
  },
)

t.test('[HLT-7] the picture of before is on disk: after a crash it is still what is compared with', async (t) => {
  const base = mkdtempSync(join(tmpdir(), 'smith-health-'))
  t.teardown(() => rmSync(base, { recursive: true }))
  const web = ({ isInstalled }: { isInstalled: boolean }) => (isInstalled ? 'failed' : 'active')
  const total = play(join(base, 'calm'), { outageMinutes: 0, web }).world.calls
  for (let at = 3; at <= total; at += 17) {
    const { result } = play(join(base, String(at)), { outageMinutes: 0, web, crashAt: [at] })
    t.match(result, { outcome: 'failed', message: /web.service has failed/ }, `crash at call ${at}`)
  }
})

t.test(
  '[HLT-8] in a private root a lost way to the coordinator fails the run, and the rest is said not to be looked at',
  async (t) => {
    const wire = await listen(await makeKeys())
    const machine = await createMachine({
      installed: [{ name: 'app', version: '1.0' }],
      published: [{ name: 'app', version: '2.0', behaviours: [{ type: 'gate', file: 'run/gate' }] }],
      coordinator: wire.url,
      limits: { health: 0.1, offline: 0.1 },
    })
    t.teardown(machine.close)
    const { order, grant } = machine.grantFor(await machine.plan())
    machine.drop(order, grant)
    const runner = machine.startRunner()
    await until('the install', () => existsSync(join(machine.root.root, 'run/gate.reached')))
    await wire.close()
    // Whoever answers there now has no TLS to offer: the handshake is cut.
    const cut = createServer((socket) => socket.destroy())
    await new Promise<void>((resolve) => void cut.listen(wire.port, '127.0.0.1', resolve))
    t.teardown(() => cut.close())
    await machine.root.gate('run/gate').open()
    t.equal(await runner.ended, 0)
    const result = machine.resultOf(order)
    t.match(result, { outcome: 'failed', cause: 'check', step: 'post-checks', latched: true })
    t.match(result?.message, /worse than before: no new connection to the coordinator at 127.0.0.1:\d+ comes about/)
    t.ok(machine.notesOf(order).some((note) => /a private root has no units/.test(note)))
    t.match(JSON.parse(readFileSync(machine.files(order).health, 'utf8')), {
      units: null,
      coordinator: { how: 'connected' },
    })
  },
)
