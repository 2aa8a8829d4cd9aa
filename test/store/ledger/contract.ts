/** The contract of a store's ledger, in which the bot keeps what it said where. Part of contract.ts. */
import type { Test } from 'tap'
import type { Store } from '../../../coordinator/ports.ts'
import { instance, put, turn } from '../rows.ts'

type Make = (t: Test) => {
  readonly open: () => Store
  readonly crash: () => Store
  readonly openBackup: (path: string) => Store
  readonly folder: string
}

export function ledgerContract(t: Test, make: Make): void {
  t.test('[BOT-3] what the ledger took is there after a crash and in a backup, all of it or nothing', async (tt) => {
    const under = make(tt)
    const store = under.open()
    tt.equal(store.ledger.get('a'), undefined)
    store.ledger.put([
      ['a/1', { text: 'one' }],
      ['a/2', { text: 'two' }],
      ['ab', {}],
    ])
    store.ledger.put([
      ['a/1', { text: 'other' }],
      ['ab', null],
    ])
    tt.same(store.ledger.list('a/'), [
      { key: 'a/1', doc: { text: 'other' } },
      { key: 'a/2', doc: { text: 'two' } },
    ])
    const circle: { self?: object } = {}
    circle.self = circle
    tt.throws(() =>
      store.ledger.put([
        ['a/3', {}],
        ['a/4', circle],
      ]),
    )
    tt.equal(store.ledger.get('a/3'), undefined, 'nothing of what could not be written whole')
    tt.equal(store.rev(), 0, 'it is no part of the journal')
    await store.commit(turn(1, [put.instance(instance())]))
    const path = `${under.folder}/backup-with-ledger`
    await store.backup(path)
    const backup = under.openBackup(path)
    tt.same(backup.ledger.get('a/1'), { text: 'other' })
    backup.close()
    const after = under.crash()
    tt.same(
      after.ledger.list('').map(({ key }) => key),
      ['a/1', 'a/2'],
    )
  })
}
