/** Health reports made by the real collector in a private root: right cause, nothing secret, nothing disturbed. */
import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import * as v from 'valibot'
import type { LockHolder } from '../../../agent/apt/kernel.ts'
import { findingsOf } from '../../../agent/runner/report/findings.ts'
import type { Looks } from '../../../agent/runner/report/looks.ts'
import { makeReport } from '../../../agent/runner/report/make.ts'
import { createRealPorts } from '../../../agent/runner/real-ports.ts'
import { endOf, outputOf, readSource } from '../../../agent/runner/report/sources.ts'
import { takeAsks } from '../../../agent/runner/report/spool.ts'
import { createRealDisk } from '../../../agent/disk/disk.ts'
import { makeStateFolders } from '../../../agent/disk/grant-key.ts'
import { layoutOf } from '../../../agent/disk/layout.ts'
import { collectorCommand } from '../../../agent/disk/runner-command.ts'
import {
  type MachineReport,
  REPORT_BYTES_MAX,
  REPORT_FILE_BYTES_MAX,
  machineReportSchema,
} from '../../../protocol/report.ts'
import { type Machine, createMachine, until } from './machine.ts'

const KEY =
  '-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIPlantedPlantedPlantedPlantedPlanted0000\n-----END PRIVATE KEY-----'
const PLANTED = [
  'hunter2hunter2',
  'xoxb-1234567890-planted',
  'smithp_plantedplanted',
  'AKIAPLANTEDPLANTED12',
  'PlantedPlanted',
]

/** Asks as the agent does, and waits for the file that root makes of it. */
async function collect(machine: Pick<Machine, 'layout' | 'config'>): Promise<MachineReport> {
  const id = randomBytes(16).toString('hex')
  writeFileSync(join(machine.layout.asks, id), '')
  const [program = '', ...args] = collectorCommand(machine.config.file)
  const child = spawn(program, args, { stdio: 'inherit' })
  const path = join(machine.layout.reports, id)
  await until('the report', () => existsSync(path) || child.exitCode !== null)
  child.kill()
  return v.parse(machineReportSchema, JSON.parse(gunzipSync(readFileSync(path)).toString('utf8')))
}

const NEITHER = { isHeld: false, section: '', installedBytes: 0 } as const
const fileOf = (report: MachineReport, name: string) => report.files.find((file) => file.name === name)?.text ?? ''

function folder(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'smith-report-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

t.test('[RPT-2] a report names the cause that the run found, and has no secret in it', async (t) => {
  const script = `cat <<'END'\nI log in with Authorization: Bearer hunter2hunter2\nhttps://me:hunter2hunter2@archive.example/\n${KEY}\ntoken xoxb-1234567890-planted and AKIAPLANTEDPLANTED12\nEND\necho "the lamp is broken" >&2; exit 1`
  const machine = await createMachine({
    installed: [{ name: 'lamp', version: '1.0' }],
    published: [{ name: 'lamp', version: '2.0', postinst: script }],
  })
  t.teardown(machine.close)
  const etc = join(machine.root.root, 'etc/apt')
  for (const name of ['preferences.d', 'auth.conf.d', 'sources.list.d']) mkdirSync(join(etc, name), { recursive: true })
  writeFileSync(join(etc, 'auth.conf.d/secret.conf'), 'machine archive.example login me password hunter2hunter2\n')
  const { result, order } = await machine.run()
  t.equal(result?.cause, 'maintainer-script')
  writeFileSync(
    join(etc, 'preferences.d/pin'),
    'Package: *\n# smithp_plantedplanted\nPin: release a=x\nPin-Priority: 1\n',
  )
  writeFileSync(join(etc, 'sources.list.d/own.list'), '# deb https://me:hunter2hunter2@archive.example/ x main\n')
  writeFileSync(
    join(machine.layout.agent, 'key.pem'),
    `-----BEGIN PRIVATE KEY-----\n${'PlantedPlanted'.repeat(4)}\n-----END PRIVATE KEY-----\n`,
  )
  writeFileSync(
    machine.config.logFile,
    `${readFileSync(machine.config.logFile, 'utf8')}${'PlantedPlanted'.repeat(4)}\n`,
  )

  const report = await collect(machine)
  t.match(report.run, { order, change: 'CHG0000001', outcome: 'failed', cause: 'maintainer-script', step: 'install' })
  t.match(report.run?.message, /postinst|post-installation/)
  t.match(report.findings.map((one) => one.text).join('\n'), /half installed/)
  t.match(fileOf(report, 'run-output.log'), /the lamp is broken/)
  t.match(fileOf(report, 'smith-agent.log'), /the lamp is broken/)
  t.match(
    fileOf(report, 'dpkg-audit.txt'),
    /lamp:all 2\.0 is half-configured\n[^]*Setting up lamp[^]*the lamp is broken/,
  )
  t.match(fileOf(report, 'apt-policy.txt'), /lamp:\n/)
  t.match(fileOf(report, 'apt-releases.txt'), /725: 20\d\d-/)
  t.match(fileOf(report, 'apt-sources.txt'), /Signed-By/i)
  t.match(fileOf(report, 'connections.txt'), /archive http:.*: connected\n/)
  t.match(fileOf(report, 'connections.txt'), /coordinator https:.*: (refused|unreachable)/)
  const text = JSON.stringify(report)
  for (const secret of PLANTED) t.notOk(text.includes(secret), secret)
  t.match(report.redacted, { authorization: Number, 'url-password': Number, 'private-key': Number, 'own-key': Number })
  t.notOk(text.includes('secret.conf'), 'what logs in to archives is not looked at')
  t.same(readdirSync(machine.layout.asks), [])
})

t.test('[RPT-3] a report during a run waits for nothing and changes nothing', async (t) => {
  const machine = await createMachine({
    installed: [{ name: 'lamp', version: '1.0' }],
    published: [{ name: 'lamp', version: '2.0', behaviours: [{ type: 'gate', file: 'gate' }] }],
  })
  t.teardown(machine.close)
  const planned = await machine.plan()
  const { order, grant } = machine.grantFor(planned)
  machine.drop(order, grant)
  const { ended } = machine.startRunner()
  const gate = join(machine.root.root, 'gate')
  await until('the script', () => existsSync(`${gate}.reached`))
  const list = (path: string) => readdirSync(path, { recursive: true }).map(String).toSorted()
  const cache = join(machine.root.root, 'var/cache/apt')
  const before = list(cache)
  const report = await collect(machine)
  t.match(report.run, { order, outcome: null, step: 'install' })
  t.match(fileOf(report, 'locks.txt'), /lock-frontend: process \d+ \(.*apt-get/)
  t.match(fileOf(report, 'locks.txt'), /\/proc\/locks\n\d+: /, "the kernel's own list")
  t.equal(machine.resultOf(order), undefined, 'the run is at work all the while')
  t.same(list(cache), before)
  writeFileSync(`${gate}.open`, '')
  t.equal(await ended, 0)
  t.equal(machine.resultOf(order)?.outcome, 'succeeded')
})

t.test(
  '[RPT-4] what a file of the list is does not matter: no link is followed, nothing blocks, all is bounded',
  async (t) => {
    const dir = folder(t)
    const disk = createRealDisk()
    const secret = join(dir, 'other')
    writeFileSync(secret, 'not for the report')
    const paths = Object.fromEntries(
      ['link', 'fifo', 'huge', 'line', 'bytes', 'none'].map((name) => [name, join(dir, name)]),
    ) as Record<string, string>
    symlinkSync(secret, paths['link'] ?? '')
    spawnSync('mkfifo', [paths['fifo'] ?? ''])
    writeFileSync(paths['huge'] ?? '', 'a line of the log\n'.repeat(100_000))
    writeFileSync(paths['line'] ?? '', 'x'.repeat(100_000))
    writeFileSync(paths['bytes'] ?? '', Buffer.from([0xff, 0xfe, 0x0a, 0x41, 0x0a]))
    const read = (name: string) => endOf(disk, paths[name] ?? '', 10_000)
    t.match(read('link'), /no regular file but a link/)
    t.match(read('fifo'), /device, socket or FIFO/)
    t.match(read('none'), /no such file/)
    t.match(read('line'), /its last line has more than 10000 bytes/)
    t.match(read('huge'), /^\[smith: the first \d+ of 1800000 bytes are left out\]\na line of the log\n/)
    t.ok(read('huge').length <= 10_100)
    t.match(read('bytes'), /\nA\n$/)
    const ports = { disk, environment: { PATH: '/usr/bin:/bin' }, leftMs: () => 60_000 }
    const command = (...argv: string[]) => ({ kind: 'command', argv, timeMs: 300 }) as const
    t.match(await outputOf(ports, command('sleep', '1000'), 1000), /ended after 0\.3 s/)
    t.match(await outputOf(ports, command('sh', '-c', 'sleep 1000 & echo here'), 1000), /^here\n\[smith: it was ended/)
    t.match(await outputOf(ports, { kind: 'command', argv: ['yes'] }, 1000), /only the first 1000 bytes/)
    const tail = { ...command('seq', '1', '300000'), keeps: 'end', timeMs: 60_000 } as const
    t.match(
      await outputOf(ports, tail, 1000),
      /^\[smith: the first 19\d{5} bytes are left out\]\n2998\d\d\n[^]*\n300000\n$/,
    )
    t.equal(await outputOf(ports, { ...tail, argv: ['seq', '1', '3'] }, 1000), '1\n2\n3\n')
    t.match(await outputOf(ports, command('no-such-program-here'), 1000), /not installed here/)
    t.match(await outputOf(ports, command('false'), 1000), /exit status 1/)
    t.match(await outputOf({ ...ports, leftMs: () => 0 }, command('true'), 1000), /the time for the report was over/)
    writeFileSync(join(dir, 'one.list'), 'one\n')
    const shown = await readSource(ports, { kind: 'folder', path: dir, named: /\.list$/ }, 1000)
    t.match(shown, /^==> .*one\.list\none\n$/)
  },
)

t.test('[RPT-5] whatever lies in asks/ is gone afterwards, and only an id asks for a report', async (t) => {
  const dir = folder(t)
  const disk = createRealDisk()
  const layout = layoutOf(join(dir, 'state'))
  makeStateFolders(disk, layout)
  const outside = join(dir, 'outside')
  mkdirSync(outside)
  writeFileSync(join(outside, 'kept'), '')
  const id = 'ab'.repeat(16)
  symlinkSync(outside, join(layout.asks, id))
  mkdirSync(join(layout.asks, 'cd'.repeat(16), 'deep', 'er'), { recursive: true })
  symlinkSync(outside, join(layout.asks, 'cd'.repeat(16), 'out'))
  spawnSync('mkfifo', [join(layout.asks, 'ef'.repeat(16))])
  writeFileSync(join(layout.asks, '--config=x'), '')
  writeFileSync(Buffer.concat([Buffer.from(`${layout.asks}/`), Buffer.from([0xff, 0x41])]), '')
  const asks = takeAsks(disk, layout)
  t.same(asks.toSorted(), [id, 'cd'.repeat(16), 'ef'.repeat(16)].toSorted())
  t.same(readdirSync(layout.asks), [])
  t.same(readdirSync(layout.reports), [])
  t.ok(existsSync(join(outside, 'kept')), 'nothing outside is touched')
})

t.test('[RPT-5] a name that is no text is made one, whatever its owner has put where it could go', (t) => {
  const dir = folder(t)
  mkdirSync(join(dir, `unnamed-${process.pid}-0`, 'full'), { recursive: true })
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff, 0x41])]), '')
  t.equal(createRealDisk().nameAll(dir), 1)
  t.equal(readdirSync(dir).length, 2)
  t.end()
})

t.test('[RPT-18] a machine that can make no report says why', async (t) => {
  const machine = await createMachine({ installed: [], published: [] })
  t.teardown(machine.close)
  const repository = join(machine.config.reposDir, 'open.sources')
  writeFileSync(repository, '')
  chmodSync(repository, 0o666)
  t.match((await collect(machine)).findings, [
    { text: /could make no report: .*open\.sources/, next: 'journalctl -u smith-report -n 50' },
  ])
})

t.test('[RPT-19] each next command of a finding is one that a shell takes, and no old list is blamed', (t) => {
  const at = 1_700_000_000_000
  const release = { what: 'http://a s', dateAt: null, validUntilAt: at - 1 }
  const holder: LockHolder = { pid: 7, command: 'apt', unit: 'a\\x2db.mount', forMs: 1000 }
  const looks: Looks = {
    ...{ unfinished: [{ name: 'a', version: '1', arch: 'amd64', state: 'half-configured', ...NEITHER }] },
    ...{ isJournalLeft: true, unfinishedText: '', scriptsText: '', packagesInQuestion: [], held: ['a:amd64 1'] },
    ...{ releases: [{ ...release, isOfRun: true }], releasesText: '', debt: ["/etc/a b's.dpkg-dist"] },
    ...{ holders: [], locksText: '', oomText: 'Killed process 1 (a)', failedUnits: ['a\\x2db.mount', 'b.service'] },
    ...{ rebootDue: true, kernelText: '', readOnly: ['/x y'], isClockKept: false, isProxied: false },
    spaces: ['/boot', '/srv/a b (c)'].map((path) => ({ path, freeBytes: 0, freeInodes: 0 })),
    connections: [true, false].map((isCoordinator) => ({
      ...{ what: 'http://h', host: 'h', isCoordinator, how: 'refused', problem: 'refused' },
    })),
    connectionsText: () => '',
  }
  const run = { order: null, change: null, step: null, outcome: null, cause: null } as const
  const given = { looks, run: { ...run, message: '', evidence: [], advice: [], at }, freeBytesMin: 1 }
  const findings = [
    ...findingsOf(given),
    ...findingsOf({ ...given, looks: { ...looks, holders: [['/var/lib/dpkg/lock', holder]] } }),
  ]
  t.ok(findings.length > 25)
  for (const { text, next } of findings)
    if (next !== null)
      t.match(spawnSync('bash', ['-n', '-c', next], { encoding: 'utf8' }), { status: 0, stderr: '' }, text)
  const texts = (more: Partial<Looks>, atRun = at) =>
    findingsOf({ ...given, run: { ...given.run, at: atRun }, looks: { ...looks, ...more } }).map(({ text }) => text)
  t.match(texts({}).join('\n'), /the Release file of http:\/\/a s had expired at the run/)
  t.notMatch(texts({}, at - 2).join('\n'), /Release/, 'it was good when it counted')
  t.notMatch(texts({ releases: [{ ...release, isOfRun: false }] }).join('\n'), /Release/)
  t.match(texts({}).join('\n'), /no connection to an archive/)
  t.notMatch(texts({ isProxied: true }).join('\n'), /no connection to an archive/, 'apt goes by a proxy')
  const unitOf = (command: string) =>
    spawnSync('bash', ['-c', command.replace('systemctl status', 'printf "%s "')], { encoding: 'utf8' }).stdout
  const status = findings.find(({ text }) => text === '2 units have failed')?.next ?? ''
  t.equal(unitOf(status), 'a\\x2db.mount b.service ')
  t.end()
})

t.test('[RPT-6] a report keeps its bounds, and says in each file what is missing', async (t) => {
  const machine = await createMachine({ installed: [], published: [] })
  t.teardown(machine.close)
  const line = `${'wide \u001b]0;title\u0007 ünicode \u202e'.repeat(800)}\n`
  for (const path of [
    machine.config.logFile,
    join(machine.root.root, 'var/log/apt/history.log'),
    join(machine.root.root, 'var/log/apt/term.log'),
  ]) {
    mkdirSync(join(path, '..'), { recursive: true })
    writeFileSync(path, line.repeat(100))
  }
  // What the agent's user can put in the place of its key, and what a crash can leave of an order.
  spawnSync('mkfifo', [join(machine.layout.agent, 'key.pem')])
  const broken = join(machine.layout.orders, 'ab'.repeat(16))
  mkdirSync(broken)
  writeFileSync(join(broken, 'fate'), '{"fate":')
  const report = await makeReport(await createRealPorts(), machine.config)
  t.match(report.findings, [{ text: 'what smith keeps of its runs can not be read' }])
  v.parse(machineReportSchema, report)
  const sizes = report.files.map((file) => Buffer.byteLength(file.text))
  t.ok(
    sizes.every((size) => size <= REPORT_FILE_BYTES_MAX),
    String(sizes),
  )
  t.ok(sizes.reduce((sum, size) => sum + size, 0) <= REPORT_BYTES_MAX)
  t.match(fileOf(report, 'smith-agent.log'), /bytes are left out/)
  t.match(fileOf(report, 'smith-agent.log'), /characters are left out/)
  t.notMatch(
    JSON.stringify(report.files.map((file) => file.text)),
    /\\u001b|\\u0007|\u202e/,
    'nothing in it acts on a terminal',
  )
  const rushed = await makeReport(await createRealPorts(), machine.config, 0)
  t.match(fileOf(rushed, 'filesystems.txt'), /the time for the report was over/)
  t.equal(statSync(machine.layout.asks).mode & 0o777, 0o750)
})
