/** The coordinator's keys: made once, whole, private; and a real TLS 1.3 connection with them. */
import { X509Certificate, createPublicKey, generateKeyPairSync, verify } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { type TLSSocket, connect, createServer } from 'node:tls'
import t from 'tap'
import { type KeyOptions, loadOrCreateKeys } from '../../coordinator/keys.ts'
import { PIN_PATTERN, pinOf } from '../../protocol/pin.ts'
import { T0, seededRandom } from '../store/rows.ts'

const DAY_MS = 86_400_000
const optionsFor = (dir: string, more: Partial<KeyOptions> = {}): KeyOptions => ({
  dir,
  instance: 'prod',
  names: ['coordinator.example.net', '10.1.2.3'],
  clock: { wallNow: () => T0 },
  random: seededRandom(5),
  ...more,
})
const files = ['order.key.pem', 'tls.cert.pem', 'tls.key.pem']

t.test('[KEY-1] the first start makes both keys, private and apart, and later starts read the same', async (tt) => {
  const dir = `${tt.testdir({})}/state/keys`
  const made = await loadOrCreateKeys(optionsFor(dir))
  tt.same(readdirSync(dir).toSorted(), files)
  tt.equal(statSync(dir).mode & 0o777, 0o700)
  for (const name of files) tt.equal(statSync(`${dir}/${name}`).mode & 0o777, 0o600, name)
  const read = await loadOrCreateKeys(optionsFor(dir))
  tt.same(
    { ...read, orderKey: { ...read.orderKey, sign: null } },
    { ...made, orderKey: { ...made.orderKey, sign: null } },
  )
  tt.not(
    made.orderKey.publicKeyBase64,
    createPublicKey(made.tls.key).export({ type: 'spki', format: 'der' }).toString('base64'),
  )
  const other = await loadOrCreateKeys(optionsFor(`${dir}-other`))
  tt.not(other.pin, made.pin, 'keys do not come from the seed of a test')
  tt.not(other.orderKey.keyId, made.orderKey.keyId)
})

t.test('[KEY-2] the order key signs what its public half verifies, and its id is of that half', async (tt) => {
  const { orderKey } = await loadOrCreateKeys(optionsFor(`${tt.testdir({})}/keys`))
  const spki = Buffer.from(orderKey.publicKeyBase64, 'base64')
  const key = createPublicKey({ key: spki, format: 'der', type: 'spki' })
  tt.equal(key.asymmetricKeyType, 'ed25519')
  const text = Buffer.from('smith-grant-v1\n{}')
  tt.ok(verify(null, text, key, orderKey.sign(text)))
  tt.notOk(verify(null, Buffer.from('other'), key, orderKey.sign(text)))
  const { createHash } = await import('node:crypto')
  tt.equal(orderKey.keyId, createHash('sha256').update(spki).digest('hex'))
})

t.test('[KEY-3] a TLS 1.3 client reaches it and sees the pinned key, the name and the addresses', async (tt) => {
  const keys = await loadOrCreateKeys(optionsFor(`${tt.testdir({})}/keys`, { clock: { wallNow: () => Date.now() } }))
  tt.match(keys.pin, PIN_PATTERN)
  tt.equal(pinOf(keys.tls.cert), keys.pin)
  const server = createServer({ key: keys.tls.key, cert: keys.tls.cert, minVersion: 'TLSv1.3' }, (socket) =>
    socket.end(),
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  tt.teardown(() => server.close())
  // With the certificate itself as the authority, Node checks chain, dates and names as well.
  const socket: TLSSocket = connect({
    host: '127.0.0.1',
    port: (server.address() as AddressInfo).port,
    ca: keys.tls.cert,
    servername: 'coordinator.example.net',
  })
  await once(socket, 'secureConnect')
  tt.equal(socket.authorized, true)
  tt.equal(socket.getProtocol(), 'TLSv1.3')
  const peer = socket.getPeerX509Certificate()
  tt.equal(peer === undefined ? '' : pinOf(peer), keys.pin)
  for (const name of ['localhost', 'coordinator.example.net']) tt.equal(peer?.checkHost(name), name)
  for (const address of ['127.0.0.1', '::1', '10.1.2.3']) tt.ok(peer?.checkIP(address), address)
  tt.equal(peer?.subject, 'CN=smith prod')
  tt.equal(peer?.ca, false)
  socket.destroy()
})

t.test('[KEY-4] the certificate is made anew when it no longer serves, around the same key', async (tt) => {
  const dir = `${tt.testdir({})}/keys`
  const first = await loadOrCreateKeys(optionsFor(dir))
  const same = async (more: Partial<KeyOptions>) => (await loadOrCreateKeys(optionsFor(dir, more))).tls.cert
  tt.equal(
    await same({ names: ['10.1.2.3', 'coordinator.example.net', '0.0.0.0', 'localhost', '::', '0:0:0:0:0:0:0:1'] }),
    first.tls.cert,
    'the same names in another order',
  )
  tt.equal(
    await same({ clock: { wallNow: () => T0 + 3000 * DAY_MS } }),
    first.tls.cert,
    'still good for more than a year',
  )
  for (const more of [
    { clock: { wallNow: () => T0 + 3300 * DAY_MS } },
    { names: ['other.example.net'] },
    { names: ['fe80::1'] },
    { instance: 'dev' },
    { clock: { wallNow: () => T0 - 30 * DAY_MS } },
  ]) {
    const before = await same({})
    const next = await loadOrCreateKeys(optionsFor(dir, more))
    tt.not(next.tls.cert, before)
    tt.equal(readFileSync(`${dir}/tls.cert.pem`, 'utf8'), next.tls.cert)
    tt.equal(next.pin, first.pin)
    tt.equal(pinOf(next.tls.cert), first.pin)
    tt.equal((await loadOrCreateKeys(optionsFor(dir, more))).tls.cert, next.tls.cert, 'and then it stays')
  }
  rmSync(`${dir}/tls.cert.pem`)
  tt.equal((await loadOrCreateKeys(optionsFor(dir))).pin, first.pin, 'a missing one as well')
  const foreign = await loadOrCreateKeys(optionsFor(`${dir}-other`))
  writeFileSync(`${dir}/tls.cert.pem`, foreign.tls.cert, { mode: 0o600 })
  tt.equal(pinOf((await loadOrCreateKeys(optionsFor(dir))).tls.cert), first.pin, 'and one of another key')
})

t.test('[KEY-5] keys that others may read are refused with the command that mends it', async (tt) => {
  const dir = `${tt.testdir({})}/keys`
  await loadOrCreateKeys(optionsFor(dir))
  for (const [path, mode, good] of [
    [`${dir}/order.key.pem`, 0o640, 0o600],
    [`${dir}/tls.key.pem`, 0o604, 0o600],
    [`${dir}/tls.cert.pem`, 0o620, 0o600],
    [dir, 0o750, 0o700],
  ] as const) {
    chmodSync(path, mode)
    await tt.rejects(
      loadOrCreateKeys(optionsFor(dir)),
      {
        name: 'RefusedError',
        refusals: [{ message: new RegExp(`${path} is open to others`), remedy: /chmod [67]00/ }],
      },
      path,
    )
    chmodSync(path, good)
  }
  await loadOrCreateKeys(optionsFor(dir))
  renameSync(`${dir}/order.key.pem`, `${dir}-elsewhere`)
  symlinkSync(`${dir}-elsewhere`, `${dir}/order.key.pem`)
  await tt.rejects(loadOrCreateKeys(optionsFor(dir)), { name: 'RefusedError', message: /neither a file/ })
})

t.test('[KEY-6] keys that are missing, cut or of another kind are refused, never made again in silence', async (tt) => {
  const folder = tt.testdir({})
  const good = `${folder}/good`
  await loadOrCreateKeys(optionsFor(good))
  let number = 0
  const broken = async (harm: (dir: string) => void, message: RegExp) => {
    const dir = `${folder}/${(number += 1)}`
    mkdirSync(dir, { mode: 0o700 })
    for (const name of files) copyFileSync(`${good}/${name}`, `${dir}/${name}`)
    harm(dir)
    const before = readdirSync(dir)
    await tt.rejects(loadOrCreateKeys(optionsFor(dir)), { name: 'RefusedError', message })
    tt.same(readdirSync(dir), before)
  }
  for (const name of ['order.key.pem', 'tls.key.pem']) {
    await broken((dir) => rmSync(`${dir}/${name}`), /is missing/)
    await broken((dir) => truncateSync(`${dir}/${name}`, 60), /no whole key/)
    await broken((dir) => truncateSync(`${dir}/${name}`, 0), /no whole key/)
  }
  await broken((dir) => truncateSync(`${dir}/tls.cert.pem`, 100), /no whole certificate/)
  await broken((dir) => files.forEach((name) => rmSync(`${dir}/${name}`)), /holds nothing/)
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ type: 'pkcs8', format: 'pem' })
  await broken((dir) => writeFileSync(`${dir}/tls.key.pem`, rsa), /of type rsa/)
  await broken((dir) => copyFileSync(`${dir}/order.key.pem`, `${dir}/tls.key.pem`), /of type ed25519/)
})

t.test('[KEY-1] a first start that a crash cut off leaves no keys, and the next one makes them', async (tt) => {
  const folder = tt.testdir({ 'keys.making': { 'tls.key.pem': 'half a k' } })
  await loadOrCreateKeys(optionsFor(`${folder}/keys`))
  tt.same(readdirSync(`${folder}/keys`).toSorted(), files)
  tt.notOk(existsSync(`${folder}/keys.making`))
  tt.ok(new X509Certificate(readFileSync(`${folder}/keys/tls.cert.pem`)).serialNumber.length >= 32)
})
