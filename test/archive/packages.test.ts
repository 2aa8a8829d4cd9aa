/** Packages, the behaviours of their scripts, and the private roots that they go into, with real apt and dpkg. */
import { createHash } from 'node:crypto'
import { accessSync, chownSync, constants, existsSync } from 'node:fs'
import { readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { execa } from 'execa'
import t, { type Test } from 'tap'
import { type Behaviour, RAW_BYTES } from './behaviours.ts'
import { type BuiltPackage, type PackageSpec, buildPackage, hostArchitecture } from './builder.ts'
import { type PackageRoot, type Ran, createRoot, rootAptConfig } from './root.ts'
import { type Upgraded, upgradeOnce } from './upgrade-once.ts'
import { folder, makeWorld, versionIn } from './world.ts'

/** The user `nobody`. */
const NOBODY = 65534

/** Installs one package with these behaviours into an empty root, by dpkg alone. */
async function installWith(
  test: Test,
  behaviours: readonly Behaviour[],
  input?: string,
): Promise<{ ran: Ran; root: PackageRoot }> {
  const { root, built } = await emptyRoot(test, { name: 'hello', version: '1.0', behaviours })
  return { ran: await root.dpkg(['--install', built.path], input === undefined ? {} : { input }), root }
}

async function emptyRoot(test: Test, spec: PackageSpec): Promise<{ root: PackageRoot; built: BuiltPackage }> {
  const dir = folder(test)
  const built = await buildPackage(spec, join(dir, 'debs'))
  const root = await createRoot({ dir, name: 'root', sources: { prod: '' }, keyFile: join(dir, 'none.asc') })
  test.teardown(() => root.close())
  return { root, built }
}

t.test('packages', async (t) => {
  t.test('[ARC-1] the same spec gives the same bytes, whatever the umask and the folder', async (t) => {
    const spec: PackageSpec = {
      name: 'same',
      version: '1:2.0-1',
      files: { '/usr/lib/same/b': 'b\n', '/usr/lib/same/a': 'a\n' },
      conffiles: { '/etc/same.conf': 'x=1\n' },
      behaviours: [{ type: 'chatty', lines: 3 }],
    }
    const one = await buildPackage(spec, folder(t))
    const before = process.umask(0o077)
    const two = await buildPackage(spec, join(folder(t), 'deeper', 'two')).finally(() => process.umask(before))
    t.equal(two.sha256, one.sha256)
    t.equal(
      one.sha256,
      createHash('sha256')
        .update(await readFile(one.path))
        .digest('hex'),
    )
    t.match(one.path, /\/same_2\.0-1_all\.deb$/)
    const other = await buildPackage({ ...spec, files: {} }, folder(t))
    t.not(other.sha256, one.sha256)
  })

  t.test('[ARC-2] a package says what its spec says', async (t) => {
    const spec: PackageSpec = {
      name: 'whole',
      version: '3.0',
      arch: 'host',
      depends: 'libone (>= 1)',
      conflicts: 'libtwo',
      breaks: 'libthree (<< 2)',
      replaces: 'libthree',
      essential: true,
      priority: 'required',
      section: 'kernel',
      installedSizeKib: 5_000_000,
      conffiles: { '/etc/whole.conf': 'x=1\n' },
      prerm: 'echo bye',
    }
    const built = await buildPackage(spec, folder(t))
    t.equal(
      built.control,
      [
        'Package: whole',
        'Version: 3.0',
        `Architecture: ${await hostArchitecture()}`,
        'Maintainer: smith test archive <smith@example.invalid>',
        'Installed-Size: 5000000',
        'Essential: yes',
        'Depends: libone (>= 1)',
        'Conflicts: libtwo',
        'Breaks: libthree (<< 2)',
        'Replaces: libthree',
        'Section: kernel',
        'Priority: required',
        'Description: test package whole',
        '',
      ].join('\n'),
    )
    t.equal((await execa('dpkg-deb', ['-I', built.path, 'conffiles'])).stdout, '/etc/whole.conf')
    t.match((await execa('dpkg-deb', ['-I', built.path, 'prerm'])).stdout, /echo bye/)
    const listed = (await execa('dpkg-deb', ['-c', built.path])).stdout
    t.match(listed, /^-rw-r--r-- root\/root .* \.\/etc\/whole\.conf$/m)
  })
})

t.test('behaviours', async (t) => {
  t.test('[ARC-3] gate: the script arrives, blocks, and goes on when it is opened', async (t) => {
    const { root, built } = await emptyRoot(t, {
      name: 'hello',
      version: '1.0',
      behaviours: [{ type: 'gate', file: 'tmp/g' }],
    })
    const running = root.dpkg(['--install', built.path])
    const pid = await root.gate('tmp/g').reached()
    t.ok(process.kill(pid, 0), 'the script lives')
    t.equal((await root.status('hello'))?.state, 'install ok half-configured')
    await root.gate('tmp/g').open()
    t.equal((await running).exitCode, 0)
    t.equal((await root.status('hello'))?.state, 'install ok installed')
  })

  t.test('[ARC-3] gate: one that lies outside the root, in a preinst', async (t) => {
    const file = join(folder(t), 'gates/outside')
    const { root, built } = await emptyRoot(t, {
      name: 'hello',
      version: '1.0',
      behaviours: [{ type: 'gate', script: 'preinst', file }],
    })
    const running = root.dpkg(['--install', built.path])
    await root.gate(file).reached()
    await root.gate(file).open()
    t.equal((await running).exitCode, 0)
  })

  t.test('[ARC-3] gate: a script whose test went away ends by itself', async (t) => {
    const { root, built } = await emptyRoot(t, {
      name: 'hello',
      version: '1.0',
      behaviours: [{ type: 'gate', file: 'tmp/g' }],
    })
    const running = root.dpkg(['--install', built.path])
    await root.gate('tmp/g').reached()
    await rm(join(root.root, 'tmp/g.reached'))
    const ran = await running
    t.equal(ran.exitCode, 1)
    t.match(ran.output, /g was given up/)
  })

  t.test('[ARC-3] hang: the script is deaf to SIGTERM, SIGINT and SIGHUP', async (t) => {
    const { root, built } = await emptyRoot(t, {
      name: 'hello',
      version: '1.0',
      behaviours: [{ type: 'hang', file: 'tmp/h' }],
    })
    const running = root.dpkg(['--install', built.path])
    const pid = await root.gate('tmp/h').reached()
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.kill(pid, signal)
    await root.gate('tmp/h').open()
    t.equal((await running).exitCode, 0)
  })

  t.test('[ARC-3] fail: in each script, with its message and status', async (t) => {
    const postinst = await installWith(t, [{ type: 'fail', message: "it's broken", exitCode: 7 }])
    t.equal(postinst.ran.exitCode, 1)
    t.match(postinst.ran.output, /^it's broken$/m)
    t.match(postinst.ran.output, /exit status 7/)
    t.equal((await postinst.root.status('hello'))?.state, 'install ok half-configured')
    t.match(await postinst.root.audit(), /hello/)
    const { root, built } = await emptyRoot(t, {
      name: 'other',
      version: '1',
      behaviours: [{ type: 'fail', script: 'prerm' }],
    })
    t.equal((await root.dpkg(['--install', built.path])).exitCode, 0)
    const removal = await root.dpkg(['--remove', 'other'])
    t.match(removal.output, /other: told to fail/)
    t.equal(await versionIn(root, 'other'), '1')
  })

  t.test('[ARC-3] fail-once: fails, and a repair by dpkg --configure then passes', async (t) => {
    const { ran, root } = await installWith(t, [{ type: 'fail-once', marker: 'tmp/failed', message: 'not yet' }])
    t.equal(ran.exitCode, 1)
    t.match(ran.output, /^not yet$/m)
    t.equal((await root.dpkg(['--configure', '-a'])).exitCode, 0)
    t.equal(await root.audit(), '')
  })

  t.test('[ARC-3] chatty: every line, in order', async (t) => {
    const { ran } = await installWith(t, [{ type: 'chatty', lines: 20_000 }])
    const said = ran.output.split('\n').filter((line) => line.startsWith('hello: line'))
    t.equal(said.length, 20_000)
    t.equal(said[0], 'hello: line 1 of 20000')
    t.ok(said.every((line, at) => line === `hello: line ${at + 1} of 20000`))
  })

  t.test('[ARC-3] raw-bytes: byte for byte, through apt as through dpkg', async (t) => {
    const behaviours = [{ type: 'raw-bytes' }] as const
    const { ran } = await installWith(t, behaviours)
    t.ok(ran.bytes.includes(RAW_BYTES))
    const { root } = await makeWorld(t, { behaviours })
    await root.apt(['update'])
    t.ok((await root.apt(['-o', 'Dpkg::Use-Pty=0', 'dist-upgrade'])).bytes.includes(RAW_BYTES))
  })

  t.test('[ARC-3] long-line: no newline within it', async (t) => {
    const { ran } = await installWith(t, [{ type: 'long-line', bytes: 200_000 }])
    t.equal(ran.output.split('\n').find((line) => line.startsWith('xxx'))?.length, 200_000)
  })

  t.test('[ARC-3] prompt: prints what it was answered, and end of file when there is nobody', async (t) => {
    t.match(
      (await installWith(t, [{ type: 'prompt' }], 'yes please\n')).ran.output,
      /go on\? \[y\/N\] got: yes please\n/,
    )
    t.match((await installWith(t, [{ type: 'prompt' }])).ran.output, /got: end of file\n/)
  })

  t.test('[ARC-3] daemon: outlives dpkg with its output open, and is ended with the root', async (t) => {
    const { ran, root } = await installWith(t, [{ type: 'daemon', file: 'run/hello.pid' }])
    t.equal(ran.exitCode, 0)
    const pid = Number(await readFile(join(root.root, 'run/hello.pid'), 'utf8'))
    t.ok(process.kill(pid, 0), 'it lives')
    t.match(
      await execa('readlink', [`/proc/${pid}/fd/1`]),
      { stdout: /dpkg\.\d+\.\d+\.out/ },
      'it holds the output of dpkg',
    )
    await root.close()
    t.ok(await gone(pid), 'it ended')
    t.notOk(existsSync(root.root))
  })

  t.test('[ARC-3] reboot: asks for one, as Debian packages do', async (t) => {
    const { root } = await installWith(t, [{ type: 'reboot' }])
    t.equal(await readFile(join(root.root, 'run/reboot-required'), 'utf8'), '*** System restart required ***\n')
    t.equal(await readFile(join(root.root, 'run/reboot-required.pkgs'), 'utf8'), 'hello\n')
  })

  t.test('[ARC-3] slow: ten steps', async (t) => {
    const { ran } = await installWith(t, [{ type: 'slow', seconds: 0.1 }])
    t.match(ran.output, /hello: step 1 of 10\n(hello: step \d of 10\n){8}hello: step 10 of 10\n/)
  })

  t.test('[ARC-4] a behaviour acts only when dpkg goes forward, a raw body always', async (t) => {
    const { root, built } = await emptyRoot(t, {
      name: 'hello',
      version: '1.0',
      behaviours: [{ type: 'chatty', lines: 1 }],
      postinst: 'echo "raw $1"',
    })
    t.match((await root.dpkg(['--install', built.path])).output, /hello: line 1 of 1\nraw configure\n/)
    const bad = await buildPackage(
      { name: 'hello', version: '1.1', behaviours: [{ type: 'fail', script: 'preinst' }] },
      folder(t),
    )
    const unwound = await root.dpkg(['--install', bad.path])
    t.match(unwound.output, /raw abort-upgrade/)
    t.notMatch(unwound.output, /hello: line/)
    t.equal(await versionIn(root), '1.0')
  })
})

t.test('roots', async (t) => {
  t.test('[ARC-13] nothing of the host is read', async (t) => {
    const { root } = await makeWorld(t)
    await writeFile(join(root.root, 'etc/apt/apt.conf.d/10own'), 'Smith::Own "yes";\n')
    const dump = (await execa('apt-config', ['dump'], { env: root.env, extendEnv: false })).stdout
    t.match(dump, /^Smith::Own "yes";$/m, 'its own parts count')
    t.match(dump, /^Acquire::Languages:: "none";$/m, 'and its own apt.conf')
    t.notMatch(dump, /Invoke|NeverAutoRemove/, "the host's hooks and parts do not")
    t.equal(dump.match(/^Dir::Etc.* "\/.*";$/m), null, 'no folder of configuration is absolute')
    const outside = [...dump.matchAll(/^(Dir\S*) "(\/[^"]*)";$/gm)].filter(
      ([, , path]) => path?.startsWith(root.root) !== true,
    )
    t.strictSame(
      outside.map(([, name]) => name).filter((name) => !/^Dir::Bin::|^Dir::Media::/.test(name ?? '')),
      [],
    )
    t.equal(await readFile(root.aptConfig, 'utf8'), rootAptConfig(root.root))
  })

  t.test('[ARC-13] nothing of the host is written', async (t) => {
    const name = `smith-trace-${process.pid}`
    const done = await upgradeOnce(folder(t), name)
    t.equal(done.after, '1.1')
    for (const path of [
      '/var/log/dpkg.log',
      '/var/log/apt/history.log',
      '/var/log/apt/term.log',
      '/var/lib/dpkg/status',
      '/var/lib/apt/extended_states',
    ])
      t.notOk(isReadable(path) && (await readFile(path)).includes(name), path)
    for (const path of ['/var/lib/dpkg/info', '/var/cache/apt/archives'])
      t.strictSame(
        (await readdir(path)).filter((entry) => entry.includes(name)),
        [],
        path,
      )
    t.strictSame(
      (await readdir('/var/lib/apt/lists')).filter((entry) => entry.startsWith('127.0.0.1')),
      [],
    )
  })

  t.test('[ARC-14] holds, automatic marks and state are those of apt-mark and dpkg', async (t) => {
    const { root } = await makeWorld(t)
    await root.hold('hello')
    await root.apt(['update'])
    t.match(await root.apt(['dist-upgrade']), { exitCode: 0, output: /kept back:\n {2}hello/ })
    t.match(await root.status('hello'), { version: '1.0', state: 'hold ok installed' })
    await root.markAuto('hello')
    t.strictSame(await root.autoPackages(), ['hello'])
    t.equal(await root.status('absent'), undefined)
    t.equal(await root.audit(), '')
    await t.rejects(root.markAuto('absent'), /apt-mark auto absent failed/)
  })

  t.test('[ARC-14] a root begins with what it was told, dependencies and all', async (t) => {
    const dir = folder(t)
    const app = await buildPackage({ name: 'app', version: '1', depends: 'lib (>= 1)' }, dir)
    const lib = await buildPackage({ name: 'lib', version: '1' }, dir)
    const options = { dir, sources: { prod: '' }, keyFile: 'none.asc' }
    const root = await createRoot({ ...options, name: 'whole', installed: [app, lib], auto: ['lib'] })
    t.strictSame(await root.autoPackages(), ['lib'])
    t.match(await root.apt(['check']), { exitCode: 0 })
    await t.rejects(createRoot({ ...options, name: 'broken', installed: [app] }), /installing .*app_1_all\.deb failed/)
    await t.rejects(createRoot({ dir, keyFile: 'none.asc' }), /needs archiveUrl or sources/)
  })

  const noUser = await whyNoOrdinaryUser()
  t.test('[ARC-15] an ordinary user can do all of it', { skip: noUser }, async (t) => {
    const dir = folder(t)
    chownSync(dir, NOBODY, NOBODY)
    const script = fileURLToPath(new URL('upgrade-once.ts', import.meta.url))
    const child = await execa(process.execPath, [script, dir, 'hello'], { uid: NOBODY, gid: NOBODY, cwd: dir })
    const done = JSON.parse(child.stdout) as Upgraded
    t.match(done, { before: '1.0', after: '1.1', audit: '' })
    t.equal(done.sha256, (await upgradeOnce(folder(t), 'hello')).sha256, 'what root builds is the same')
    t.match(done.output, new RegExp(`^uid ${NOBODY} configure 1\\.0$`, 'm'))
  })
})

/** Why the test as an ordinary user can't run here; false when it can. */
async function whyNoOrdinaryUser(): Promise<string | false> {
  if (process.getuid?.() !== 0) return 'these tests run as an ordinary user already'
  const script = fileURLToPath(new URL('upgrade-once.ts', import.meta.url))
  const probe = await execa(process.execPath, ['--check', script], {
    uid: NOBODY,
    gid: NOBODY,
    cwd: '/',
    reject: false,
  })
  return probe.exitCode === 0 ? false : 'user 65534 cannot read this checkout'
}

/** What an ordinary user may not read (apt's term.log) it can't have written either. */
function isReadable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK)
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'EACCES')) return false
    throw error
  }
}

async function gone(pid: number): Promise<boolean> {
  for (let tries = 0; tries < 1000; tries += 1) {
    if (!existsSync(`/proc/${pid}`)) return true
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => 'Z')
    // Nobody may reap an orphan in a container; a zombie has ended all the same.
    if (/\) Z |^Z$/.test(stat)) return true
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return false
}
