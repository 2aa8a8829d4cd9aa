/** Sealed backups and restores: on real files, with a real database and real keys. */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { open } from 'node:fs/promises'
import { Readable } from 'node:stream'
import t from 'tap'
import type { Test } from 'tap'
import { loadOrCreateKeys } from '../../coordinator/keys.ts'
import { stateFolder } from '../../coordinator/store/durable.ts'
import { backupSealed, restore, seal } from '../../coordinator/store/sealed.ts'
import { openStream, sealStream } from '../../coordinator/store/sealed-stream.ts'
import { openSqliteStore } from '../../coordinator/store/sqlite.ts'
import { T0, append, id, instance, machine, put, seededRandom, turn } from './rows.ts'

const passphrase = 'correct horse battery staple'
const random = seededRandom(9)
const common = { passphrase, random, at: T0 + 1000, program: '0.1.0', cost: 1024 }

/** A state folder with keys and a store of a few megabytes, so that a sealed file has several chunks. */
async function stateOf(tt: Test) {
  const folder = tt.testdir({ state: {}, out: {} })
  const stateDir = `${folder}/state`
  const places = stateFolder(stateDir)
  const keys = await loadOrCreateKeys({
    dir: places.keys,
    instance: 'prod',
    names: [],
    clock: { wallNow: () => T0 },
    random,
  })
  const store = openSqliteStore({ path: places.database, random, program: '0.1.0' })
  tt.teardown(() => store.close())
  const noise = Array.from({ length: 300 }, (_, index) => ({
    ...machine(`m${index}`),
    publicKey: Buffer.from(random.bytes(6000)).toString('base64'),
  }))
  await store.commit(
    turn(1, [...noise.map(put.machine), put.instance(instance({ fence: 12, change: 3 }))], [append('o', 1, 500)]),
  )
  return { folder, stateDir, places, keys, store, file: `${folder}/out/smith.sealed` }
}

t.test('[STO-16] a backup restores to the same store and the same keys, frozen and with a new epoch', async (tt) => {
  const { folder, stateDir, store, keys, file } = await stateOf(tt)
  const answer = await backupSealed({ ...common, store, stateDir, file })
  tt.match(answer, { path: file, bytes: statSync(file).size, rev: 1, sha256: /^[0-9a-f]{64}$/ })
  tt.ok(answer.bytes > 2_097_152, 'several chunks')
  tt.equal(statSync(file).mode & 0o777, 0o600)
  tt.same(readdirSync(`${folder}/out`), ['smith.sealed'])
  tt.same(
    readdirSync(stateDir).filter((name) => name.startsWith('backup-')),
    [],
    'no unsealed copy stays',
  )

  const restored = `${folder}/new/state`
  const done = await restore({ ...common, file, stateDir: restored })
  tt.same(readdirSync(restored).toSorted(), ['keys', 'smith.db'])
  const places = stateFolder(restored)
  const again = openSqliteStore({ path: places.database, random, program: '0.1.0' })
  tt.teardown(() => again.close())
  tt.equal(again.epoch, done.epoch)
  tt.not(again.epoch, store.epoch)
  tt.equal(again.rev(), 2)
  const { frozen, ...counters } = again.get('instance', 'instance') ?? instance()
  tt.match(frozen, { by: 'restore', at: T0 + 1000, reason: /backup of 2023-11-14.*smith unfreeze$/ })
  tt.same({ frozen: null, ...counters }, instance({ fence: 12, change: 3 }))
  tt.match(again.journal({ since: 1, limit: 5 }), [{ rev: 2, actor: 'restore', facts: [{ fact: 'frozen' }] }])
  tt.equal(again.list('machines', '').length, 300)
  tt.equal(again.records({ order: id('o'), after: 0, limit: 1000 }).length, 500)
  const same = await loadOrCreateKeys({
    dir: places.keys,
    instance: 'prod',
    names: [],
    clock: { wallNow: () => T0 },
    random,
  })
  tt.equal(same.pin, keys.pin)
  tt.equal(same.orderKey.keyId, keys.orderKey.keyId)
  tt.equal(statSync(`${places.keys}/order.key.pem`).mode & 0o777, 0o600)
})

t.test('[STO-17] a sealed file that was changed, cut, extended or reordered anywhere restores nothing', async (tt) => {
  const { folder, stateDir, store, file } = await stateOf(tt)
  await backupSealed({ ...common, store, stateDir, file })
  const good = readFileSync(file)
  const head = good.indexOf('\n', 'smith-sealed-v1\n'.length) + 1
  const chunk = 1_048_576 + 16
  const flipped = (offset: number) => {
    const copy = Buffer.from(good)
    copy.writeUInt8(copy.readUInt8(offset) ^ 1, offset)
    return copy
  }
  const swapped = Buffer.concat([
    good.subarray(0, head),
    good.subarray(head + chunk, head + 2 * chunk),
    good.subarray(head, head + chunk),
    good.subarray(head + 2 * chunk),
  ])
  const bad: Record<string, Buffer> = {
    magic: flipped(3),
    header: flipped(good.indexOf('"nonce":"') + 9),
    'first chunk': flipped(head + 10),
    'second chunk': flipped(head + chunk + 10),
    'last byte': flipped(good.length - 1),
    'cut in a chunk': good.subarray(0, good.length - 5),
    'cut between chunks': good.subarray(0, head + chunk),
    'cut to its header': good.subarray(0, head),
    'cut to nothing': good.subarray(0, 0),
    extended: Buffer.concat([good, Buffer.alloc(20)]),
    swapped,
  }
  for (const [name, bytes] of Object.entries(bad)) {
    writeFileSync(`${folder}/bad`, bytes)
    await tt.rejects(
      restore({ ...common, file: `${folder}/bad`, stateDir: `${folder}/empty` }),
      { name: 'RefusedError', message: /damaged|no backup|does not open/ },
      name,
    )
    tt.same(readdirSync(`${folder}/empty`), [], `${name}: the folder is as empty as before`)
  }
  await tt.rejects(restore({ ...common, passphrase: 'another phrase', file, stateDir: `${folder}/empty` }), {
    name: 'RefusedError',
    message: /passphrase is wrong/,
  })
  await tt.rejects(restore({ ...common, file: `${folder}/none`, stateDir: `${folder}/empty` }), {
    name: 'RefusedError',
    message: /can't read/,
  })
  await restore({ ...common, file, stateDir: `${folder}/empty` })
})

t.test('[STO-17] a stream that ends between two chunks is not taken for a whole one', async (tt) => {
  const folder = tt.testdir({})
  const pieces: Buffer[] = []
  for await (const piece of sealStream(Readable.from([Buffer.alloc(2_500_000, 7)]), { passphrase, random, cost: 1024 }))
    pieces.push(piece)
  const read = async (bytes: Buffer) => {
    writeFileSync(`${folder}/stream`, bytes)
    const file = await open(`${folder}/stream`, 'r')
    let length = 0
    try {
      for await (const plain of openStream(file, passphrase, 'stream')) length += plain.length
    } finally {
      await file.close()
    }
    return length
  }
  tt.equal(await read(Buffer.concat(pieces)), 2_500_000)
  tt.equal(pieces.length, 4)
  await tt.rejects(read(Buffer.concat(pieces.slice(0, 3))), { name: 'RefusedError', message: /damaged/ })
  await tt.rejects(read(Buffer.concat(pieces.slice(0, 2))), { name: 'RefusedError', message: /does not open/ })
})

t.test('[STO-17] no secret and no row can be read in a sealed file', async (tt) => {
  const { stateDir, store, places, file } = await stateOf(tt)
  await backupSealed({ ...common, store, stateDir, file })
  const bytes = readFileSync(file)
  for (const text of [
    'PRIVATE KEY',
    'SQLite format',
    'CREATE TABLE',
    'm299',
    readFileSync(`${places.keys}/order.key.pem`, 'utf8').split('\n')[1] ?? '',
  ]) {
    tt.equal(bytes.includes(text), false, text.slice(0, 15))
  }
})

t.test('[STO-18] a restore goes into an empty folder only, and touches nothing that is there', async (tt) => {
  const { folder, stateDir, store, file } = await stateOf(tt)
  await backupSealed({ ...common, store, stateDir, file })
  mkdirSync(`${folder}/used`)
  writeFileSync(`${folder}/used/anything`, 'mine')
  await tt.rejects(restore({ ...common, file, stateDir: `${folder}/used` }), {
    name: 'RefusedError',
    refusals: [{ kind: 'exists', message: /not empty \(anything\)/ }],
  })
  tt.same(readdirSync(`${folder}/used`), ['anything'])
  await tt.rejects(restore({ ...common, file, stateDir }), { name: 'RefusedError', refusals: [{ kind: 'exists' }] })
  tt.equal(store.rev(), 1)
})

t.test('[STO-16] a backup replaces no file, and a short passphrase is refused', async (tt) => {
  const { folder, stateDir, store, places, file } = await stateOf(tt)
  writeFileSync(file, 'mine')
  await tt.rejects(backupSealed({ ...common, store, stateDir, file }), {
    name: 'RefusedError',
    refusals: [{ kind: 'exists' }],
  })
  tt.equal(readFileSync(file, 'utf8'), 'mine')
  await store.backup(`${folder}/copy`)
  await tt.rejects(
    seal({
      ...common,
      passphrase: 'short',
      storeFile: `${folder}/copy`,
      keysDir: places.keys,
      file: `${folder}/out/b`,
    }),
    { name: 'RefusedError', message: /passphrase/ },
  )
  await tt.rejects(seal({ ...common, storeFile: `${folder}/nothing`, keysDir: places.keys, file: `${folder}/out/b` }))
  tt.notOk(existsSync(`${folder}/out/b`))
})

t.test('[STO-16] the real cost of the passphrase is used unless a test says otherwise', async (tt) => {
  const { folder, places, store } = await stateOf(tt)
  await store.backup(`${folder}/copy`)
  const { cost: _, ...real } = common
  await seal({ ...real, storeFile: `${folder}/copy`, keysDir: places.keys, file: `${folder}/out/b` })
  tt.match(readFileSync(`${folder}/out/b`, 'latin1').split('\n')[1], /"n":131072,"r":8,"p":1/)
  copyFileSync(`${folder}/out/b`, `${folder}/out/c`)
  chmodSync(`${folder}/out/c`, 0o600)
  await restore({ ...real, file: `${folder}/out/c`, stateDir: `${folder}/again` })
})
