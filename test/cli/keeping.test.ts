/** What keeps the CLI itself: login, configuration, instances, the admin socket, completion, the version of Node. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import { TOKEN, makeCertificate, problem, startFake } from './fake-coordinator.ts'
import { CLI, COMPILED, golden, makeHome, setUp } from './run-cli.ts'
import * as s from './samples.ts'

t.test('[CLI-12] login keeps nothing but what the coordinator took, in a file of 0600', async (t) => {
  const fake = await startFake()
  const home = makeHome({})
  t.teardown(async () => {
    home.remove()
    await fake.close()
  })
  const login = ['login', '--url', fake.url, '--pin', fake.pin]
  t.match(await home.run(login, { input: '' }), { status: 2, err: /no token was given/ })
  t.match(await home.run(login, { input: 'smithp_wrong\n' }), { status: 1, err: /no valid token came/ })
  const { pin } = await makeCertificate()
  const before = fake.calls.length
  const impostor = await home.run(['login', '--url', fake.url, '--pin', pin], { input: `${TOKEN}\n` })
  t.match(impostor, { status: 3, err: /does not hold the pinned key/ })
  t.equal(fake.calls.length, before, 'the token did not go out')
  t.match(await home.run(['--instance', 'stage', ...login], { input: TOKEN }), {
    status: 1,
    err: /is the instance prod, not stage/,
  })
  t.notOk(existsSync(home.config), 'nothing was written so far')
  const ended = await home.run(['--instance', 'prod', ...login], { input: `${TOKEN}\n` })
  t.match(ended, { status: 0, out: /^Logged in to prod as ann \(requester\)/ })
  t.equal(statSync(home.config).mode & 0o777, 0o600)
  t.match(readFileSync(home.config, 'utf8'), TOKEN)
  fake.on('machines', () => ({ machines: [] }))
  t.equal((await home.run(['machines'])).status, 0, 'and it works')
  const typed = await home.terminal(login, { input: `wrong\x15${TOKEN}x\x7f\r` })
  t.match(typed, { status: 0, out: /token: / })
  t.match(typed.out.split('token: ')[1], /^\n?Logged in/, 'no echo after the question')
})

t.test(
  '[CLI-21] an error in the configuration names file, line and key; a file open to others is refused',
  async (t) => {
    const { home, fake } = await setUp(t)
    const good = readFileSync(home.config, 'utf8')
    const write = (text: string, mode: number) => {
      const path = join(home.path, `c${mode}.toml`)
      writeFileSync(path, text, { mode })
      return path
    }
    const at = async (text: string) => (await home.run(['--config', write(text, 0o600), 'machines'])).err
    t.match(
      await at(good.replace(/^pin = .*$/m, 'pin = "short"')),
      /c384\.toml:3: instances\.prod\.pin: must be the 43/,
    )
    t.match(await at(`${good}\nextra = 1\n`), /c384\.toml:6: instances\.prod\.extra: /)
    t.match(await at(`${good}\nnot toml`), /c384\.toml:6: /)
    const open = await home.run(['--config', write(good, 0o644), 'machines'])
    t.match(open, { status: 1, err: /others can read it\n {3}do: Type: chmod 600/ })
    t.match(await home.run(['--config', join(home.path, 'none.toml'), 'machines']), {
      status: 2,
      err: /there is no file/,
    })
    t.equal(fake.calls.length, 0)
  },
)

t.test('[CLI-13] with several instances status asks each, and what changes something needs one chosen', async (t) => {
  const [dev, prod] = [await startFake('dev'), await startFake('prod')]
  const home = makeHome({ dev, prod })
  t.teardown(async () => {
    home.remove()
    await Promise.all([dev.close(), prod.close()])
  })
  dev.on('project', () => problem(404, 'not-found', 'no such change', 'list them'))
  prod.on('project', () => s.projectView('complete', [s.machineStatus('web-1', 'succeeded')]))
  dev.on('projects', () => ({ instance: 'dev', frozen: { by: 'ann', reason: 'storm', at: s.AT }, projects: [] }))
  const stop = 'Held: paused by ann'
  const summary = {
    change: s.CHANGE,
    state: 'held',
    title: 'web-*',
    build: '725',
    region: 'us-south',
    requester: 'ann',
    createdAt: s.AT,
    totals: { pass: 1, fail: 0, unstarted: 2 },
    stop,
  }
  prod.on('projects', () => ({ instance: 'prod', frozen: null, projects: [summary] }))
  const one = await home.run(['status', s.CHANGE])
  t.equal(one.status, 0)
  t.match(
    one.out,
    /^== dev ==\nproject `CHG0268453` not running in smith instance in dev\n== prod ==\nProject: CHG0268453/,
  )
  const list = await home.run(['status'])
  t.match(list.out, /^== dev ==\nFrozen by ann for .+: storm\nLift: smith unfreeze\nNo projects\.\n== prod ==\n/)
  t.match(
    list.out,
    /\nCHANGE +STATE +MACHINES.*\nCHG0268453 {2}held +web-\* +725 +us-south {2}pass 1, unstarted 2 {2}ann .*Held: paused by ann\n$/,
  )
  t.same(JSON.parse((await home.run(['status', '--json'])).out).length, 2)
  t.match(JSON.parse((await home.run(['status', s.CHANGE, '--json'])).out), { change: s.CHANGE, totals: { pass: 1 } })
  prod.on('requestMake', (call) => s.requestView(call.body['preview'] === true ? 'previewed' : 'raised'))
  t.match(await home.run(['pause', s.CHANGE]), {
    status: 2,
    err: /several instances are known \(dev, prod\)/,
  })
  t.equal(dev.calls.filter((call) => call.name === 'requestMake').length, 0)
  t.equal((await home.run(['--instance', 'prod', 'patch', 'prod machines: web-1 outage:0'])).status, 0)
  writeFileSync(home.config, `default = "prod"\n${readFileSync(home.config, 'utf8')}`)
  t.equal((await home.run(['patch', 'prod machines: web-1 outage:0'])).status, 0, 'the default')
  prod.on('project', () => problem(404, 'not-found', 'no such change', 'list them'))
  t.equal((await home.run(['status', s.CHANGE])).status, 1, 'known to none')
  await dev.close()
  const lost = await home.run(['status'])
  t.match(lost, { status: 3, out: /== dev ==\n== prod ==\nCHANGE/, err: /out of reach/ })
})

t.test('[CLI-14] the admin socket needs no file and no token', async (t) => {
  const fake = await startFake()
  const home = makeHome({})
  t.teardown(async () => {
    home.remove()
    await fake.close()
  })
  fake.on('userAdd', (call) => ({ name: call.body['name'], roles: call.body['roles'], token: TOKEN }))
  fake.on('enrolNew', (call) => ({
    tokens: (call.body['names'] as string[]).map((name) => ({
      id: s.id('5'),
      name,
      token: `smith1.${'a'.repeat(43)}.${'b'.repeat(43)}.${name}`,
      expiresAt: s.AT,
    })),
  }))
  const admin = (...args: string[]) => home.run(['--socket', fake.socket, ...args])
  const user = await admin('user', 'add', 'bob', '--role', 'requester', 'approver', '--ttl', '36h')
  t.same([user.status, user.out], [0, `${TOKEN}\n`], 'the token alone on stdout')
  t.ok(user.err.includes(`types: smith login --url https://127.0.0.1:7600 --pin ${fake.pin}\n`), 'the whole command')
  const { pin } = fake
  fake.on('who', () => ({
    instance: 'prod',
    name: 'local-admin',
    roles: [],
    version: '1',
    pin,
    epoch: s.id('e'),
    rev: 0,
    port: 7601,
  }))
  const bound = await home.run(['--socket', fake.socket, 'user', 'add', 'eve', '--role', 'viewer'])
  t.ok(
    bound.err.includes(`--url https://${hostname()}:7601 `),
    'a coordinator on every address is named by its machine',
  )
  fake.on('who', () => ({
    instance: 'prod',
    name: 'local-admin',
    roles: [],
    version: '1',
    pin,
    epoch: s.id('e'),
    rev: 0,
    host: '::1',
    port: 7600,
  }))
  const six = await home.run(['--socket', fake.socket, 'user', 'add', 'eve', '--role', 'viewer'])
  t.ok(six.err.includes('--url https://[::1]:7600 '), 'an IPv6 address stands in brackets')
  fake.on('who', () => ({
    instance: 'prod',
    name: 'local-admin',
    roles: [],
    version: '1',
    pin,
    epoch: s.id('e'),
    rev: 0,
    host: '127.0.0.1',
    port: 7600,
  }))
  t.same(fake.calls[0]?.body, { name: 'bob', roles: ['requester', 'approver'], ttlDays: 2 })
  const one = await admin('enrol', 'new', '--name', 'Web-1', '--replace')
  t.match(one.out, /^smith1\.a+\.b+\.web-1\n$/)
  t.match(one.err, /smith-agent enrol --coordinator https:\/\/127\.0\.0\.1:7600 --token TOKEN/, 'the whole command')
  t.same(fake.calls.find((call) => call.name === 'enrolNew')?.body, {
    names: ['web-1'],
    ttlSeconds: 3600,
    replace: true,
  })
  const file = join(home.path, 'names')
  writeFileSync(file, '# rack 7\nweb-1\n\n web-2 # new\n')
  const many = await admin('enrol', 'new', '--from', file, '--ttl', '2h')
  t.match(many.out, /^web-1 smith1\..*\nweb-2 smith1\..*\n$/)
  const piped = await home.run(['--socket', fake.socket, 'enrol', 'new', '--from', '-'], { input: 'web-7\n' })
  t.match(piped.out, /^web-7 smith1/)
  t.match(await home.run(['--socket', '/nowhere.sock', 'machines']), {
    status: 3,
    err: /admin socket \/nowhere\.sock is out of reach/,
  })
  t.match(await home.run(['--socket', fake.socket, '--instance', 'x', 'machines']), {
    status: 2,
    err: /exclude each other/,
  })
})

t.test('[CLI-14] the lists of tokens and people say what still holds', async (t) => {
  const { home, fake } = await setUp(t)
  const enrolment = {
    id: s.id('5'),
    name: 'web-1',
    by: 'ann',
    replace: false,
    expiresAt: 4e12,
    usedAt: null,
    revokedAt: null,
  }
  fake.on('enrolList', () => ({
    enrolments: [
      enrolment,
      { ...enrolment, name: 'web-2', usedAt: 5, replace: true },
      { ...enrolment, name: 'web-3', expiresAt: 5 },
    ],
  }))
  fake.on('userList', () => ({
    users: [{ name: 'ann', roles: ['admin'], createdAt: 0, revokedAt: null, expiresAt: null }],
  }))
  fake.on('userRevoke', () => ({ done: true, rev: 1 }))
  fake.on('enrolRevoke', () => ({ done: true, rev: 1 }))
  const tokens = (await home.run(['enrol', 'list'])).out
  t.match(
    tokens,
    /^MACHINE {2}STATE {4}GOOD UNTIL +BY\nweb-1 {4}open .*\nweb-2 {4}used .*replaces\nweb-3 {4}expired .*\n$/,
  )
  t.match(
    (await home.run(['user', 'list'])).out,
    /^NAME {2}ROLES {2}STATE +ENDS +ADDED\nann {3}admin {2}active {2}never {2}1970-01-01 00:00:00\n$/,
  )
  t.match(await home.run(['user', 'revoke', 'ann']), { status: 0, out: 'The token of ann is revoked.\n' })
  t.match(await home.run(['enrol', 'revoke', 'web-1']), { status: 0, out: 'The enrolment of web-1 is revoked.\n' })
})

t.test('[CLI-19] backup takes its passphrase from stdin; restore says what to type and does nothing', async (t) => {
  const { home, fake } = await setUp(t)
  fake.on('backup', (call) => ({
    path: call.body['path'],
    bytes: 34_500_000,
    sha256: s.hash('7'),
    rev: 12,
    head: s.hash('8'),
  }))
  const ended = await home.run(['--socket', fake.socket, 'backup', 'here'], { input: 'correct horse\n' })
  t.match(ended, {
    status: 0,
    out: /^Written: \/.*\/here, 35 MB, up to revision 12\nSHA-256: 7{64}\nHead of the journal: 8{64}\n$/,
  })
  t.equal(fake.calls[0]?.body['passphrase'], 'correct horse')
  const args = ['--socket', fake.socket, 'backup', 'here']
  t.match(await home.terminal(args, { input: 'first one\rsecond one\r' }), { status: 1, out: /two passphrases differ/ })
  const restore = await home.run(['restore', "/srv/it's here", '--state-dir', '/var/lib/x'])
  t.equal(restore.status, 1)
  t.match(
    restore.err,
    /do: Type: smith-coordinator restore '\/srv\/it'\\''s here' --state-dir \/var\/lib\/x --passphrase-file PASSPHRASE-FILE\n$/,
  )
})

t.test('[CLI-16] machines are a table, or what the protocol says for programs', async (t) => {
  const { home, fake } = await setUp(t)
  const machines = [
    s.machineView('web-1', { project: s.CHANGE, rebootPending: true }),
    s.machineView('web-2', { online: false, region: null, quarantined: 'two with one key \x1b[2J' }),
  ]
  fake.on('machines', () => ({ machines }))
  const table = await home.run(['machines', 'web-*'])
  t.equal(
    table.out,
    golden([
      'MACHINE  LINK     PROJECT     REGION    CLUSTER              ADDRESS     SYSTEM  KERNEL  PATCHED  NOTE',
      'web-1    online   CHG0268453  us-south  prod-dal10-carrier3  10.77.0.12  -       -       never    reboot pending',
      'web-2    offline  -           -         prod-dal10-carrier3  10.77.0.12  -       -       never    quarantined: two with one key \\x1b[2J',
    ]),
  )
  t.same(fake.calls[0]?.query, { pattern: 'web-*' })
  t.same(JSON.parse((await home.run(['machines', '--json'])).out), machines)
  const narrow = await home.terminal(['machines'], { columns: 60 })
  t.ok(
    narrow.out
      .trimEnd()
      .split('\n')
      .every((line) => line.length <= 60),
    'a row is one line of the terminal',
  )
})

t.test('[CLI-17] completion comes from the command tree, and asks the coordinator quietly', async (t) => {
  const { home, fake } = await setUp(t)
  for (const shell of ['bash', 'zsh', 'fish']) {
    const { out } = await home.run(['completion', shell])
    for (const word of ['resolve', 'unfreeze', 'digest', 'follow', 'smith-patch'])
      t.match(out, word, `${shell} ${word}`)
    t.notMatch(out, /__complete['"]/, 'what is hidden is not offered')
    if (shell !== 'fish') execFileSync('bash', ['-n'], { input: out })
  }
  fake.on('machines', () => ({
    machines: [s.machineView('web-1'), s.machineView('web-2'), s.machineView('$(reboot)')],
  }))
  t.equal((await home.run(['__complete', 'machines'])).out, 'web-1\nweb-2\n', 'a name is never code')
  const script = (await home.run(['completion', 'bash'])).out
  const complete = async (...words: string[]) => {
    const wrapper = `smith() { '${process.execPath}' '${CLI}smith.ts' "$@"; }`
    const typed = `COMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')})\nCOMP_CWORD=${words.length - 1}`
    const { stdout } = await execa('bash', ['--norc'], {
      input: `${wrapper}\n${script}\n${typed}\n_smith ${words[0]}\nprintf '%s\\n' "\${COMPREPLY[@]}"\n`,
      extendEnv: false,
      env: { HOME: home.path, PATH: process.env['PATH'] ?? '', ...COMPILED },
    })
    return stdout.trim().split('\n')
  }
  t.same(await complete('smith', 'un'), ['unfreeze'])
  t.same(await complete('smith', '--timeout', '5s', 'enrol', 're'), ['revoke'])
  t.same(await complete('smith', 'skip', s.CHANGE, '--reason', 'x', 'we'), ['web-1', 'web-2'])
  t.same(await complete('smith-patch', 'prod', 'machines:', 'web-2'), ['web-2'])
  await fake.close()
  t.same(await home.run(['__complete', 'machines']), { status: 0, out: '', err: '' })
})

t.test('[CLI-18] a Node that is too old is said clearly, before anything else is loaded', async (t) => {
  const fakeVersion = (version: string) =>
    `data:text/javascript,Object.defineProperty(process.versions,'node',{value:'${version}'})`
  const run = (version: string) => {
    const args = ['--import', fakeVersion(version), '--import', `${CLI}node-version.mjs`, '-e', 'process.exit(7)']
    try {
      return { status: 0, err: execFileSync(process.execPath, args, { stdio: 'pipe', encoding: 'utf8' }) }
    } catch (error) {
      const { status, stderr } = error as { status: number; stderr: string }
      return { status, err: stderr }
    }
  }
  for (const old of ['18.19.0', '20.20.2', '22.17.9', '23.5.0']) {
    t.match(
      run(old),
      { status: 1, err: /^error: smith needs Node 22\.18 or newer, and this is Node .+\n {3}do: .+\n$/ },
      old,
    )
  }
  for (const fit of ['22.18.0', '23.6.0', '24.0.0', '26.10.0']) t.equal(run(fit).status, 7, fit)
  for (const program of ['smith', 'smith-patch', 'smith-status']) {
    const help = execFileSync(`${CLI}${program}.ts`, ['--help'], {
      encoding: 'utf8',
      env: { PATH: process.env['PATH'] ?? '' },
    })
    t.match(help, 'Usage: smith', `${program} starts by its own first line`)
  }
})
