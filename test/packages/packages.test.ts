/**
 * The two packages as they are given away, without root and without installing them: what is in them, what their
 * scripts do, and that the programs in them do what they are for with nothing else on the machine.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { gunzipSync } from 'node:zlib'
import type { Command } from 'commander'
import t from 'tap'
import { checkAgentConfig } from '../../agent/config.ts'
import { createRealDisk } from '../../agent/disk/disk.ts'
import { makeStateFolders } from '../../agent/disk/grant-key.ts'
import { layoutOf } from '../../agent/disk/layout.ts'
import { buildProgram as buildAgent } from '../../agent/program.ts'
import { buildProgram as buildCli } from '../../coordinator/cli/program.ts'
import { parseConfig } from '../../coordinator/config.ts'
import { buildProgram as buildCoordinator } from '../../coordinator/program.ts'
import { CHECKOUT } from '../demo/process.ts'
import { dryRun } from './scripts.ts'
import { build, run0, unpack } from './unpacked.ts'
import { patchWithPackages } from './patching.ts'

const packages = await unpack(t)
const NAMES = ['smith-agent', 'smith-coordinator'] as const
const PROGRAMS = {
  'smith-agent': 'smith-agent/agent/main.mjs',
  'smith-coordinator': 'smith-coordinator/coordinator/main.mjs',
  smith: 'smith-coordinator/cli/smith.mjs',
  'smith-patch': 'smith-coordinator/cli/smith-patch.mjs',
  'smith-status': 'smith-coordinator/cli/smith-status.mjs',
}
const text = (path: string) => readFileSync(join(packages.tree, path), 'utf8')
const unit = (name: string) => text(`usr/lib/systemd/system/${name}`)
const directives = (name: string) =>
  unit(name)
    .split('\n')
    .filter((line) => /^[A-Z][A-Za-z]+=/.test(line))

t.test('[PKG-1] a minimal Debian has all that the packages depend on', async (t) => {
  const own = ['libc6', 'libgcc-s1', 'libstdc++6', 'apt']
  for (const name of NAMES) {
    const depends = await packages.field(name, 'Depends')
    for (const one of depends.split(', ')) t.ok(own.includes(one.split(' ')[0] ?? ''), one)
    t.equal(await packages.field(name, 'Pre-Depends'), '')
    const libc = /libc6 \(>= 2\.(\d+)\)/.exec(depends)?.[1]
    const gcc = /libstdc\+\+6 \(>= ([\d.]+)\)/.exec(depends)?.[1] ?? ''
    for (const file of binariesOf(name)) {
      const bytes = readFileSync(join(packages.tree, file)).toString('latin1')
      t.ok(newest(bytes, /GLIBC_2\.(\d+)(?:\.\d+)?\0/g) <= Number(libc), `${file} and libc6 2.${libc}`)
      t.ok(newest(bytes, /GLIBCXX_3\.4\.(\d+)\0/g) <= (LIBSTDCXX[gcc] ?? 0), `${file} and libstdc++6 ${gcc}`)
    }
  }
})

/** The newest GLIBCXX_3.4.N that came with a release of GCC. */
const LIBSTDCXX: Readonly<Record<string, number>> = { '5.2': 21, '11': 29 }
const binariesOf = (name: string) =>
  (packages.listed.get(name) ?? []).flatMap(({ path }) => (/\/node$|\.node$/.test(path) ? [path] : []))
const newest = (bytes: string, pattern: RegExp) =>
  Math.max(0, ...[...bytes.matchAll(pattern)].map((match) => Number(match[1])))

t.test('[PKG-2] the same content gives the same bytes, whoever builds it where', async (t) => {
  const out = mkdtempSync(join(tmpdir(), 'smith-again-'))
  const umask = process.umask(0o077)
  t.teardown(() => {
    process.umask(umask)
    rmSync(out, { recursive: true, force: true })
  })
  const again = await build(out)
  for (const [index, made] of packages.debs.entries())
    t.equal(sha256(again[index]?.path ?? ''), sha256(made.path), made.name)
  t.strictSame(
    (await build(out)).map((one) => one.isNew),
    [false, false],
    'and is not packed twice',
  )
})

const sha256 = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex')

t.test('[PKG-3] all is root’s, and nobody else can write any of it', async (t) => {
  for (const name of NAMES) {
    for (const { mode, owner, path } of packages.listed.get(name) ?? []) {
      t.equal(owner, 'root/root', path)
      const isProgram = /^\/usr\/bin\/|\/node$/.test(path)
      t.equal(mode, mode.startsWith('d') || isProgram ? `${mode[0]}rwxr-xr-x` : '-rw-r--r--', path)
    }
  }
})

t.test(
  '[PKG-4] nothing is in them but what runs: no sources, no npm, nothing of the machine they were made on',
  async (t) => {
    const places =
      /^\/(etc\/(smith|needrestart|logrotate\.d)|usr\/(bin\/smith|lib\/(smith-|systemd|sysusers|tmpfiles)|share\/(doc|man|bash-completion|zsh|fish)\/))/
    for (const name of NAMES) {
      const files = (packages.listed.get(name) ?? []).filter(({ mode }) => !mode.startsWith('d'))
      for (const { path, size } of files) {
        t.match(path, places)
        t.notMatch(path, /\.(ts|map|md|h)$|npm|corepack/)
        if (size > 50_000_000) continue
        const bytes = readFileSync(join(packages.tree, path))
        for (const leftover of [CHECKOUT.slice(0, -1), 'sourceMappingURL=data', 'smith-package-'])
          t.notOk(bytes.includes(leftover), `${path}: ${leftover}`)
      }
      const installed = files.reduce((sum, { size }) => sum + size, 0)
      t.ok(installed < 125_000_000, `${name} takes ${installed} bytes`)
      t.ok(Number(await packages.field(name, 'Installed-Size')) * 1024 >= installed, 'and says so')
      t.match(packages.control(name)['md5sums'], /^[0-9a-f]{32} {2}usr\/lib\/smith-/m)
      t.match(text(`usr/share/doc/${name}/copyright`), /Apache License[^]*Node\.js is licensed[^]*valibot 1\./)
    }
  },
)

t.test(
  '[PKG-5] every file below /etc is a conffile, and the examples are valid as they are and line by line',
  async (t) => {
    for (const name of NAMES) {
      const below = (packages.listed.get(name) ?? []).flatMap(({ mode, path }) =>
        path.startsWith('/etc/') && mode.startsWith('-') ? [path] : [],
      )
      t.strictSame(packages.control(name)['conffiles']?.trim().split('\n'), below.toSorted())
    }
    const agent = text('etc/smith/agent.toml')
    const opened = (example: string) => example.replaceAll(/^# (\[+[\w.]+\]+|\w+ = .*)$/gm, '$1')
    t.match(checkAgentConfig(agent, 'f'), { coordinator: null, stateDir: '/var/lib/smith', runMode: 'systemd' })
    t.match(checkAgentConfig(opened(agent), 'f'), {
      coordinator: 'https://smith.example:7600',
      identity: { region: 'us-south' },
    })
    const coordinator = text('etc/smith/coordinator.toml')
    t.match(parseConfig(coordinator, 'f'), { ok: false, refusals: [{ subject: 'instance' }] })
    t.match(parseConfig(opened(coordinator), 'f'), {
      ok: true,
      config: { instance: 'prod', stateDir: '/var/lib/smith-coordinator' },
    })
    const condition = /ExecCondition=\/bin\/grep -Eqs '([^']+)'/.exec(unit('smith-coordinator.service'))?.[1] ?? '?'
    for (const [example, starts] of [
      [coordinator, false],
      [opened(coordinator), true],
    ] as const) {
      const isNamed = new RegExp(condition.replaceAll('[[:space:]]', '\\s'), 'm').test(example)
      t.equal(isNamed, starts, 'the coordinator starts only when it has a name')
    }
  },
)

t.test('[DSH-16] the package carries the dashboard as the files that its page names, and their licences', async (t) => {
  const folder = 'usr/lib/smith-coordinator/coordinator/dashboard'
  const assets = [...text(`${folder}/index.html`).matchAll(/"\/assets\/([^"]+)"/g)].map((match) => match[1] ?? '')
  t.equal(assets.length, 3)
  for (const asset of assets) {
    const hash = /-([0-9a-f]{16})\./.exec(asset)?.[1] ?? 'none'
    t.ok(sha256(join(packages.tree, folder, asset)).startsWith(hash), asset)
  }
  t.match(text('usr/share/doc/smith-coordinator/copyright'), /\npreact [0-9.]+ \(MIT\)\n/)
})

t.test('[PKG-6] the folders are those that the agent makes, and only its own are writable for it', async (t) => {
  const lines = text('usr/lib/tmpfiles.d/smith-agent.conf')
    .split('\n')
    .filter((line) => line.startsWith('d '))
  const made = new Map(
    lines.map((line) => line.split(' ')).map(([, path = '', mode, user]) => [path, `${mode} ${user}`]),
  )
  const folders: string[] = []
  const disk = { ...createRealDisk(), makeFolder: (path: string) => void folders.push(path) }
  makeStateFolders(disk, layoutOf('/var/lib/smith'))
  t.strictSame([...made.keys()].toSorted(), folders.toSorted())
  const theirs = [...made].flatMap(([path, rights]) => (rights.endsWith(' smith') ? [path] : []))
  t.strictSame(
    theirs,
    ['agent', 'inbox', 'asks'].map((name) => `/var/lib/smith/${name}`),
  )
  t.match(
    directives('smith-agent.service').find((line) => line.startsWith('ReadWritePaths=')),
    `ReadWritePaths=${theirs.join(' ')}`,
  )
  t.ok(
    makeFallbackOf(packages.control('smith-agent')['postinst'] ?? '', [...made.values()]),
    'and without systemd-tmpfiles the same',
  )
})

/** The modes of the fallback in postinst. */
const makeFallbackOf = (postinst: string, rights: readonly string[]) =>
  rights.every((right) => postinst.includes(`install -d -m ${right.split(' ')[0]} -o ${right.split(' ')[1]}`))

t.test('[PKG-7] the units say what was seen to keep a run alive, and nothing that dpkg could not bear', async (t) => {
  const run = directives('smith-run.service')
  for (const line of [
    'Type=exec',
    'KillMode=process',
    'SendSIGKILL=no',
    'TimeoutStopSec=infinity',
    'Restart=on-failure',
    'RestartSec=1',
    'StartLimitIntervalSec=0',
    'OOMPolicy=continue',
    'Wants=network-online.target',
  ])
    t.ok(run.includes(line), line)
  t.strictSame(
    run.filter((line) =>
      /^(Protect|Private|Restrict|NoNew|SystemCall|Capability|User|Memory|ReadWrite|Watchdog|RuntimeMax)/.test(line),
    ),
    [],
  )
  t.notOk(
    run.some((line) => /^Condition|^Assert/.test(line)),
    'a condition that fails makes the path unit start it for ever',
  )
  t.ok(directives('smith-run.path').includes('DirectoryNotEmpty=/var/lib/smith/inbox'))
  t.ok(directives('smith-report.path').includes('DirectoryNotEmpty=/var/lib/smith/asks'))
  const report = directives('smith-report.service')
  for (const line of [
    'ProtectSystem=strict',
    'StartLimitIntervalSec=0',
    'Nice=19',
    'IOSchedulingClass=idle',
    'CPUWeight=10',
  ])
    t.ok(report.includes(line), `smith-report.service: ${line}`)
  for (const name of ['smith-agent.service', 'smith-coordinator.service']) {
    const lines = directives(name)
    for (const line of [
      'NoNewPrivileges=yes',
      'CapabilityBoundingSet=',
      'ProtectSystem=strict',
      'Restart=always',
      'StartLimitIntervalSec=0',
    ])
      t.ok(lines.includes(line), `${name}: ${line}`)
    t.notOk(
      lines.some((line) => line.startsWith('MemoryDenyWriteExecute')),
      'the engine compiles',
    )
  }
})

t.test(
  '[PKG-19] each program has a man page with all its verbs and options, and the shells find its words',
  async (t) => {
    const page = (path: string) => gunzipSync(readFileSync(join(packages.tree, `usr/share/man/${path}.gz`))).toString()
    const trees: readonly [string, Command][] = [
      ['man1/smith.1', buildCli({ context: () => assert.fail('no verb runs'), status: 0 })],
      ['man8/smith-agent.8', buildAgent(new Writable(), { status: 0 })],
      ['man8/smith-coordinator.8', buildCoordinator()],
    ]
    for (const [path, tree] of trees) {
      const shown = page(path).replaceAll('\\-', '-')
      for (const verb of visibleVerbs(tree)) {
        t.match(shown, `.SS ${verb.path}\n`, `${path}: ${verb.path}`)
        for (const flags of verb.flags) t.match(shown, `.B ${flags}\n`, `${path}: ${verb.path} ${flags}`)
      }
    }
    t.match(page('man1/smith-patch.1'), /max\\-failures:/)
    t.match(page('man1/smith-status.1'), /\\-\\-watch/)
    t.match(page('man5/smith-coordinator.toml.5'), 'admin_socket')
    t.match(page('man5/smith-agent.toml.5'), 'coordinator = "https://smith.example:7600"')
    const pages = [...packages.listed.values()].flat().filter(({ path }) => /\/man\/.*\.gz$/.test(path))
    t.equal(pages.length, 7)
    // Where man is, it has nothing to complain of.
    for (const { path } of pages) {
      const { stderr } = await run0(
        'sh',
        ['-c', `! command -v man >/dev/null || man --warnings -l -Tutf8 ${packages.tree}${path} >/dev/null`],
        {
          PATH: '/usr/bin:/bin',
          LC_ALL: 'C.UTF-8',
        },
      )
      t.equal(stderr, '', path)
    }
    const complete = `. ${packages.tree}/usr/share/bash-completion/completions/smith-patch; complete -p smith smith-patch smith-status`
    t.match(
      (await run0('bash', ['-c', complete], { PATH: '/usr/bin:/bin' })).stdout,
      /_smith smith\n.*_smith smith-patch\n/,
    )
    t.match(text('usr/share/zsh/vendor-completions/_smith'), /^#compdef smith smith-patch smith-status\n/)
    t.match(text('usr/share/fish/vendor_completions.d/smith.fish'), 'complete -c smith')
  },
)

function visibleVerbs(command: Command, path: readonly string[] = []): { path: string; flags: string[] }[] {
  return command.commands
    .filter((one) => !one.name().startsWith('__'))
    .flatMap((one) => {
      const own = [...path, one.name()]
      const flags = one.options.filter((option) => !option.hidden).map((option) => option.flags)
      return one.commands.length > 0 ? visibleVerbs(one, own) : [{ path: own.join(' '), flags }]
    })
}

const analyze = await run0('sh', ['-c', 'command -v systemd-analyze'], { PATH: '/usr/bin:/bin' })
const noAnalyze = analyze.status === 0 ? false : 'systemd-analyze (Debian package systemd) is not here'
t.test('[PKG-8] systemd understands every line of the units', { skip: noAnalyze }, async (t) => {
  const paths = ['smith-run.path', 'smith-report.path']
  const files = [...paths, ...['agent', 'run', 'report', 'coordinator'].map((name) => `smith-${name}.service`)]
  const dir = t.testdir(
    Object.fromEntries(
      files.map((name) => [name, unit(name).replaceAll('/usr/lib/smith-', `${packages.tree}/usr/lib/smith-`)]),
    ),
  )
  const env = { PATH: '/usr/bin:/bin', SYSTEMD_UNIT_PATH: `${dir}:` }
  const { stderr, status } = await run0('systemd-analyze', ['verify', ...files.map((name) => join(dir, name))], env)
  t.strictSame(
    stderr.split('\n').filter((line) => line.includes('smith')),
    [],
  )
  t.equal(status, 0, stderr)
})

t.test('[PKG-9] needrestart is told to leave every unit of smith alone', async (t) => {
  for (const [file, unit_] of [
    ['smith.conf', 'smith-agent.service'],
    ['smith.conf', 'smith-run.service'],
    ['smith-coordinator.conf', 'smith-coordinator.service'],
  ] as const) {
    const program = `our %nrconf; ${text(`etc/needrestart/conf.d/${file}`)}
      my @found = grep { '${unit_}' =~ $_ } keys %{$nrconf{override_rc}}; print scalar(@found), $nrconf{override_rc}{$found[0]}`
    t.equal((await run0('perl', ['-e', program], { PATH: '/usr/bin:/bin' })).stdout, '10', unit_)
  }
})

t.test('[PKG-10] the scripts are sound, and no upgrade stops or restarts what is at work', async (t) => {
  for (const name of NAMES) {
    for (const script of ['postinst', 'prerm', 'postrm']) {
      const source = packages.control(name)[script] ?? ''
      t.match(source, /^#!\/bin\/sh\n[^]*set -e\n/)
      t.notMatch(source, /systemctl\s[^|;\n]*(stop|kill|restart)[^|;\n]*smith-run\.service|pkill|killall/)
    }
  }
  const agent = packages.control('smith-agent')
  for (const order of [null, 'f'.repeat(32)]) {
    const dir = t.testdir()
    const upgrade = dryRun(agent['prerm'] ?? '', ['upgrade', '0.2.0'], { dir, tree: packages.tree, order })
    t.strictSame(upgrade, { status: 0, calls: [] }, 'before the files are replaced nothing happens')
    const { status, calls } = dryRun(agent['postinst'] ?? '', ['configure', '0.1.0'], {
      dir,
      tree: packages.tree,
      order,
    })
    t.equal(status, 0)
    t.strictSame(
      calls.filter((call) => /stop|restart|kill|mask /.test(call) && !/unmask/.test(call)),
      [],
    )
    t.ok(
      calls.includes('deb-systemd-invoke start smith-run.path smith-report.path smith-agent.service'),
      calls.join('\n'),
    )
    t.strictSame(
      calls.filter((call) => call.startsWith('deb-systemd-helper enable')),
      ['smith-run.path', 'smith-run.service', 'smith-report.path', 'smith-agent.service'].map(
        (one) => `deb-systemd-helper enable ${one}`,
      ),
    )
  }
})

t.test(
  '[PKG-11] without the tools of systemd and Debian the folders and the account are made all the same',
  async (t) => {
    const dir = t.testdir()
    const options = { dir, tree: packages.tree, order: null, bare: true }
    for (const name of NAMES) {
      const { status, calls } = dryRun(packages.control(name)['postinst'] ?? '', ['configure', ''], options)
      t.equal(status, 0, name)
      t.ok(
        calls.some((call) => call.startsWith('useradd --system')),
        calls.join('\n'),
      )
      t.ok(calls.some((call) => call.startsWith('install -d')))
      t.notOk(calls.some((call) => call.startsWith('systemctl')))
    }
  },
)

t.test('[PKG-12] a removal stops the agent, but in a run it leaves both and the rules of the run', async (t) => {
  const prerm = packages.control('smith-agent')['prerm'] ?? ''
  const idle = t.testdir()
  t.strictSame(dryRun(prerm, ['remove'], { dir: idle, tree: packages.tree, order: null }), {
    status: 0,
    calls: ['systemctl stop smith-run.path smith-report.path', 'systemctl stop smith-agent.service'],
  })
  for (const how of ['its own run', 'the lock of a runner', 'the lock of an order whose runner was killed']) {
    const dir = mkdtempSync(join(tmpdir(), 'smith-remove-'))
    t.teardown(() => rmSync(dir, { recursive: true, force: true }))
    const held = how === 'its own run' ? null : holdLock(dir, how.includes('order') ? 'orders/abc/lock' : 'runner.lock')
    await held?.taken
    const order = how === 'its own run' ? 'f'.repeat(32) : null
    t.strictSame(
      dryRun(prerm, ['remove'], { dir, tree: packages.tree, order }),
      { status: 0, calls: ['systemctl stop smith-run.path smith-report.path'] },
      how,
    )
    const kept = readFileSync(join(dir, 'run/systemd/system/smith-run.service'), 'utf8')
    t.match(kept, /^KillMode=process$[^]*^SendSIGKILL=no$/m)
    t.notMatch(kept, /^(Restart|WantedBy)/m)
    const { calls } = dryRun(packages.control('smith-agent')['postinst'] ?? '', ['configure', '0.1.0'], {
      dir,
      tree: packages.tree,
      order,
    })
    t.ok(calls.length > 0)
    t.throws(
      () => readFileSync(join(dir, 'run/systemd/system/smith-run.service')),
      { code: 'ENOENT' },
      'a new install has its own',
    )
    await held?.end()
  }
})

t.test('[PKG-13] a purge asks nothing and takes the state with it, but not from under its own run', async (t) => {
  const postrm = packages.control('smith-agent')['postrm'] ?? ''
  for (const order of [null, 'f'.repeat(32)]) {
    const dir = t.testdir({
      var: { lib: { smith: { run: { fence: '7\n' } } } },
      opt: { 'smith-agent.log': 'a\n', 'smith-agent.log.1': 'b\n' },
      etc: { smith: { repos: { 'prod.sources': 'Types: deb\n' } } },
    })
    const { status, calls } = dryRun(postrm, ['purge'], { dir, tree: packages.tree, order })
    t.equal(status, 0)
    const isThere = (path: string) => readOrNull(join(dir, path)) !== null
    t.equal(isThere('var/lib/smith/run/fence'), order !== null)
    t.equal(isThere('opt/smith-agent.log.1'), order !== null)
    t.ok(isThere('etc/smith/repos/prod.sources'), 'what a person wrote stays')
    t.equal(calls.includes('systemctl stop smith-agent.service'), order === null)
  }
})

function readOrNull(path: string): string | null {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

function holdLock(dir: string, path: string) {
  const lock = join(dir, 'var/lib/smith/run', path)
  mkdirSync(join(lock, '..'), { recursive: true })
  const child = spawn('flock', [lock, 'sh', '-c', 'echo taken; read end'], { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = new Promise((resolve) => child.once('close', resolve))
  return {
    taken: new Promise((resolve) => child.stdout.once('data', resolve)),
    end: () => {
      child.stdin.end()
      return ended
    },
  }
}

t.test('[PKG-14] every program starts from its own files alone, with nothing in its environment', async (t) => {
  for (const [program, module] of Object.entries(PROGRAMS)) {
    const folder = module.split('/')[0] ?? ''
    const ran = await packages.start(`usr/lib/${folder}/node`, [join(packages.tree, 'usr/lib', module), '--help'])
    t.match(ran, { status: 0, stdout: /^Usage: smith/, stderr: '' }, program)
    const launcher = text(`usr/bin/${program}`)
    t.match(launcher, `exec /usr/lib/${folder}/node /usr/lib/${module} "$@"\n`)
    t.match(launcher, /^unset NODE_OPTIONS NODE_PATH$/m)
  }
  const { version } = JSON.parse(readFileSync(join(CHECKOUT, 'package.json'), 'utf8')) as { version: string }
  for (const program of NAMES) {
    const module = join(packages.tree, 'usr/lib', PROGRAMS[program])
    const ran = await packages.start(`usr/lib/${program}/node`, [module, '--version'])
    t.equal(ran.stdout, `${version}\n`, 'and knows its version')
    t.equal(await packages.field(program, 'Version'), version)
  }
})

t.test(
  '[PKG-15] the packaged programs enrol a machine and patch it: agent, runner, wrapper, hook and coordinator',
  async (t) => {
    const done = await patchWithPackages(t, packages.tree)
    t.match(done.verified, { status: 1, stderr: /smith\.db can't be read: database is locked\n +do: / })
    t.match(done.enrolled, { status: 0, stdout: /^Enrolled as prod-dal10-web-1 with instance / })
    t.match(done.patched, { status: 0 }, `${done.patched.stdout}${done.patched.stderr}`)
    t.match(done.patched.stdout, /TOTALS: Pass: 1, Failed NONE, Unstarted NONE/)
    t.equal(done.version, '2')
    const logged = readFileSync(done.logFile, 'utf8')
    t.match(logged, / install .*Setting up hello \(2\)/)
    t.notMatch(done.commands, CHECKOUT, 'nothing of the checkout was started')
    t.match(done.commands, 'agent/runner/hook.mjs')
  },
)
