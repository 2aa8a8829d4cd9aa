/** The signed archive and the server that misbehaves, as real apt sees them. */
import { createHash } from 'node:crypto'
import { readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import { type Archive, createArchive } from './archive.ts'
import { buildPackage } from './builder.ts'
import { createRoot } from './root.ts'
import { serveArchive } from './server.ts'
import { createSigningKey, readSigningKey } from './signing.ts'
import { upgradeOnce } from './upgrade-once.ts'
import { ONCE, ago, folder, key, makeWorld, versionIn } from './world.ts'

t.test('the archive', async (t) => {
  t.test('[ARC-5] apt updates from it and upgrades a root', async (t) => {
    const done = await upgradeOnce(folder(t), 'hello')
    t.match(done, { before: '1.0', after: '1.1', audit: '' })
    t.match(done.output, /postinst|configure 1\.0/)
    t.notMatch(done.output, /^[WE]:/m, 'apt has nothing to complain of')
  })

  t.test('[ARC-6] the Release file names its build, and a numbered build is reached by the template', async (t) => {
    const { archive, root, old, next, dir } = await makeWorld(t)
    const newest = await buildPackage({ name: 'hello', version: '1.2' }, join(dir, 'debs'))
    await archive.publish({ suite: '725', packages: [next], build: '725', date: ago(50) })
    const later = await archive.publish({ suite: 'prod', packages: [old, newest], build: '726', date: ago(40) })
    t.match(later.release, /^Version: 726$/m)
    t.match(later.release, /^Build: 726$/m)
    t.equal((await root.apt(['update'], { build: '725' })).exitCode, 0)
    t.equal((await root.apt(['dist-upgrade'], { build: '725' })).exitCode, 0)
    t.equal(await versionIn(root), '1.1')
    t.strictSame(
      await readdir(root.sourcesDir),
      ['build.sources.in', 'prod.sources'],
      'the root is as it was configured',
    )
    await root.apt(['update'])
    await root.apt(['dist-upgrade'])
    t.equal(await versionIn(root), '1.2')
    const policy = ['-o', `Dir::Etc::SourceList=${root.sourcesDir}/prod.sources`, 'policy']
    const known = await execa('apt-cache', policy, { env: root.env, extendEnv: false })
    t.match(known.stdout, /release v=726,o=smith,a=prod,n=prod,l=smith test archive/)
  })

  t.test('[ARC-7] a signature by another key, or by one that has run out, is refused', async (t) => {
    const { archive, root } = await makeWorld(t)
    await archive.resign('prod', { date: ago(30), signWith: await createSigningKey({ name: 'a stranger' }) })
    const strange = await root.apt([...ONCE, 'update', '--error-on=any'])
    t.equal(strange.exitCode, 100)
    t.match(strange.output, /NO_PUBKEY|not signed|couldn't be verified/)
    const stale = await createSigningKey({ expiresAt: ago(10) })
    await writeFile(archive.keyFile, stale.publicArmored)
    await archive.resign('prod', { date: ago(20), signWith: stale })
    const expired = await root.apt([...ONCE, 'update', '--error-on=any'])
    t.equal(expired.exitCode, 100)
    t.match(expired.output, /EXPKEYSIG|expired/i)
  })

  t.test('[ARC-7] the same content signed again is accepted, and is the same content', async (t) => {
    const { archive, root } = await makeWorld(t)
    await root.apt(['update'])
    const again = await archive.resign('prod', { date: ago(30) })
    t.match(again.release, /^Build: 725$/m)
    const update = await root.apt(['update', '--error-on=any'])
    t.equal(update.exitCode, 0)
    t.match(update.output, /^Get:1 .* InRelease/m)
    t.notMatch(update.output, /Packages/, 'no index is fetched again')
    const lists = join(root.root, 'var/lib/apt/lists')
    const name = (await readdir(lists)).find((one) => one.endsWith('_InRelease')) ?? ''
    const sha256 = createHash('sha256')
      .update(await readFile(join(lists, name)))
      .digest('hex')
    t.equal(sha256, again.inReleaseSha256)
  })

  t.test('[ARC-7] a key that was kept signs on after a restart', async (t) => {
    const { archive, root } = await makeWorld(t)
    await root.apt(['update'])
    const reopened = await createArchive({ dir: archive.dir, key: await readSigningKey(key.privateArmored) })
    await reopened.resign('prod', { date: ago(5) })
    t.equal((await root.apt(['update', '--error-on=any'])).exitCode, 0)
  })

  t.test('[ARC-7] the files are laid out as real archives are: LF alone, and both signatures hold', async (t) => {
    const { archive } = await makeWorld(t)
    const shown = join(archive.dir, 'dists/prod')
    const clear = await readFile(join(shown, 'InRelease'), 'utf8')
    t.notMatch(clear, /\r/)
    const release = await readFile(join(shown, 'Release'), 'utf8')
    t.ok(clear.includes(`\n\n${release}-----BEGIN PGP SIGNATURE-----\n`))
    await rm(join(shown, 'InRelease'))
    const root = await createRoot({
      dir: folder(t),
      name: 'detached',
      sources: { prod: fileSource(archive) },
      keyFile: archive.keyFile,
    })
    t.equal((await root.apt(['update', '--error-on=any'])).exitCode, 0, 'apt falls back on Release and Release.gpg')
  })

  t.test('[ARC-8] a Release past its Valid-Until is refused', async (t) => {
    const { archive, root } = await makeWorld(t)
    await archive.resign('prod', { date: ago(30), validUntil: ago(10) })
    const ran = await root.apt([...ONCE, 'update', '--error-on=any'])
    t.equal(ran.exitCode, 100)
    t.match(ran.output, /is expired \(invalid since/)
    await archive.resign('prod', { date: ago(5) })
    t.equal((await root.apt(['update', '--error-on=any'])).exitCode, 0, 'resigning lifts it')
  })

  t.test('[ARC-8] a Release older than what apt has changes nothing for apt', async (t) => {
    const { archive, server, root, old } = await makeWorld(t)
    await archive.publish({ suite: 'prod', packages: [old], build: '726', date: ago(30) })
    await root.apt(['update'])
    await archive.rollBack('prod')
    const seen = server.requests.length
    const ran = await root.apt(['update', '--error-on=any'])
    t.match(await server.waitFor('InRelease', { from: seen }), { method: 'GET' })
    t.match(await readFile(join(archive.dir, 'dists/prod/Release'), 'utf8'), /Build: 725/, 'the older one is served')
    t.equal(ran.exitCode, 0)
    const lists = join(root.root, 'var/lib/apt/lists')
    const name = (await readdir(lists)).find((one) => one.endsWith('_InRelease')) ?? ''
    t.match(await readFile(join(lists, name), 'utf8'), /Build: 726/, 'the newer one is kept')
    await t.rejects(archive.rollBack('prod'), /no earlier publication/)
  })

  t.test('[ARC-9] a package that was changed after it was signed never reaches dpkg', async (t) => {
    const { archive, root, next } = await makeWorld(t)
    await root.apt(['update'])
    await archive.tamper(archive.poolPath(next))
    const ran = await root.apt([...ONCE, 'dist-upgrade'])
    t.equal(ran.exitCode, 100)
    t.match(ran.output, /Hash Sum mismatch/)
    t.equal(await versionIn(root), '1.0')
  })

  t.test('[ARC-10] a client between two publications finds what it began with', async (t) => {
    const { archive, server, root, dir } = await makeWorld(t)
    const newest = await buildPackage({ name: 'hello', version: '1.2' }, join(dir, 'debs'))
    const stall = server.misbehave({ path: 'by-hash', kind: 'stall', afterBytes: 0 })
    const updating = root.apt(['update', '--error-on=any'])
    await stall.reached
    await archive.publish({ suite: 'prod', packages: [newest], build: '726', date: ago(5) })
    stall()
    t.equal((await updating).exitCode, 0)
    t.equal((await root.apt(['dist-upgrade'])).exitCode, 0)
    t.equal(await versionIn(root), '1.1')
    const begun = await stall.reached
    t.equal((await fetch(server.url + begun.path)).status, 200, 'its index is still there')
  })

  t.test('[ARC-10] two builds that claim the same version do not touch each other', async (t) => {
    const { archive, dir, next } = await makeWorld(t)
    const twin = await buildPackage({ name: 'hello', version: '1.1', postinst: 'true' }, join(dir, 'twin'))
    await archive.publish({ suite: '726', packages: [twin], date: ago(5) })
    const hashOf = async (path: string) =>
      createHash('sha256')
        .update(await readFile(path))
        .digest('hex')
    t.equal(await hashOf(join(archive.dir, archive.poolPath(next))), next.sha256)
    const scripts = Array.from({ length: 6 }, (_, index) => `exit 0 # ${'x'.repeat(index * 10_000)}`)
    const built = await Promise.all(
      scripts.map((postinst) => buildPackage({ name: 'hello', version: '1.1', postinst }, join(dir, 'twin'))),
    )
    for (const one of built) t.equal(await hashOf(one.path), one.sha256, 'also when they are built side by side')
  })
})

t.test('the server', async (t) => {
  t.test('[ARC-11] status: apt names it', async (t) => {
    const { server, root } = await makeWorld(t)
    for (const status of [403, 404, 503]) {
      const lift = server.misbehave({ path: /InRelease$|Release$/, kind: 'status', status })
      const ran = await root.apt([...ONCE, 'update', '--error-on=any'])
      t.equal(ran.exitCode, 100)
      t.match(ran.output, new RegExp(`${status}  `))
      lift()
    }
    t.equal((await root.apt(['update', '--error-on=any'])).exitCode, 0, 'lifted')
  })

  t.test('[ARC-11] stall: holds apt until it is lifted, or until apt has had enough', async (t) => {
    const { server, root } = await makeWorld(t)
    await root.apt(['update'])
    const first = server.misbehave({ path: '.deb', kind: 'stall', afterBytes: 1000 })
    const impatient = await root.apt([...ONCE, '-o', 'Acquire::http::Timeout=1', 'dist-upgrade'])
    t.equal(impatient.exitCode, 100)
    t.match(impatient.output, /timed out|timeout/i)
    first()
    const second = server.misbehave({ path: '.deb', kind: 'stall', afterBytes: 1000 })
    const patient = root.apt(['dist-upgrade'])
    const request = await second.reached
    t.equal(request.range, 'bytes=1000-', 'apt resumes what it had')
    t.equal(await versionIn(root), '1.0')
    second()
    t.equal((await patient).exitCode, 0)
    t.equal(await versionIn(root), '1.1')
  })

  t.test('[ARC-11] truncate and reset: apt says that the connection broke', async (t) => {
    const { server, root } = await makeWorld(t)
    await root.apt(['update'])
    for (const rule of [{ kind: 'truncate', afterBytes: 500 }, { kind: 'reset' }] as const) {
      const lift = server.misbehave({ path: '.deb', ...rule })
      const ran = await root.apt([...ONCE, 'dist-upgrade'])
      t.match(
        ran,
        { exitCode: 100, output: /Connection (failed|reset)|Error reading from server|closed connection/ },
        rule.kind,
      )
      lift()
    }
    const once = server.misbehave({ path: '.deb', kind: 'truncate', afterBytes: 700, times: 1 })
    t.equal((await root.apt(['-o', 'Acquire::Retries=1', 'dist-upgrade'])).exitCode, 0, 'a second try passes')
    t.match(await once.reached, { path: /\.deb$/ })
  })

  t.test('[ARC-11] garbage: neither index nor package is taken', async (t) => {
    const { server, root } = await makeWorld(t)
    const release = server.misbehave({ path: 'Release', kind: 'garbage' })
    t.match(await root.apt([...ONCE, 'update', '--error-on=any']), {
      exitCode: 100,
      output: /NOSPLIT|isn't valid|Clearsigned/i,
    })
    release()
    const index = server.misbehave({ path: 'by-hash', kind: 'garbage' })
    t.match(await root.apt([...ONCE, 'update', '--error-on=any']), { exitCode: 100, output: /Hash Sum mismatch/ })
    index()
    await root.apt(['update'])
    server.misbehave({ path: '.deb', kind: 'garbage' })
    t.match(await root.apt([...ONCE, 'dist-upgrade']), { exitCode: 100, output: /Hash Sum mismatch/ })
  })

  t.test('[ARC-11] slow: all arrives', async (t) => {
    const { server, root } = await makeWorld(t)
    const slow = server.misbehave({ path: '.deb', kind: 'slow', bytesPerSecond: 100_000 })
    await root.apt(['update'])
    t.equal((await root.apt(['dist-upgrade'])).exitCode, 0)
    t.match(await slow.reached, { path: /\.deb$/ })
  })

  t.test('[ARC-12] serves ranges, unmodified files, and nothing outside its folder', async (t) => {
    const { server, archive, next } = await makeWorld(t)
    const url = `${server.url}/${archive.poolPath(next)}`
    const whole = Buffer.from(await (await fetch(url)).arrayBuffer())
    const rest = await fetch(url, { headers: { range: 'bytes=100-' } })
    t.equal(rest.status, 206)
    t.equal(rest.headers.get('content-range'), `bytes 100-${whole.length - 1}/${whole.length}`)
    t.ok(whole.subarray(100).equals(Buffer.from(await rest.arrayBuffer())))
    t.equal((await fetch(url, { headers: { range: `bytes=${whole.length}-` } })).status, 416)
    const modified = rest.headers.get('last-modified') ?? ''
    t.equal((await fetch(url, { headers: { 'if-modified-since': modified } })).status, 304)
    const earlier = new Date(Date.parse(modified) + 1000).toUTCString()
    t.equal(
      (await fetch(url, { headers: { 'if-modified-since': earlier } })).status,
      200,
      'another time is another file',
    )
    const stale = { range: 'bytes=100-', 'if-range': earlier }
    t.equal((await fetch(url, { headers: stale })).status, 200, 'a changed file is sent whole')
    t.equal((await fetch(`${server.url}/%2e%2e/debs/hello_1.0_all.deb`)).status, 404)
    t.equal((await fetch(`${server.url}/dists`)).status, 404)
  })

  t.test('[ARC-12] close ends stalls, waits and sockets', async (t) => {
    const dir = folder(t)
    await writeFile(join(dir, 'file'), 'content')
    const server = await serveArchive({ dir })
    const stall = server.misbehave({ path: 'file', kind: 'stall', afterBytes: 3 })
    const idle = connect(Number(new URL(server.url).port), '127.0.0.1')
    const idleEnded = new Promise((resolve) => idle.once('close', resolve))
    idle.on('error', () => idle.destroy())
    const cut = t.rejects(fetch(`${server.url}/file`).then((answer) => answer.text()))
    const waited = t.rejects(server.waitFor('never'), /closed before never/)
    await stall.reached
    await server.close()
    await Promise.all([cut, waited, idleEnded])
    await t.rejects(fetch(server.url), 'nobody listens')
  })
})

function fileSource(archive: Archive): string {
  return `Types: deb\nURIs: file:${archive.dir}\nSuites: prod\nComponents: main\nSigned-By: ${archive.keyFile}\n`
}
