/** A process that commits turn after turn and says each number once it is committed, until it is killed or fails. */
import { writeSync } from 'node:fs'
import { openSqliteStore } from '../../coordinator/store/sqlite.ts'
import { StoreError } from '../../coordinator/store/store-error.ts'
import { append, machine, put, seededRandom, turn } from './rows.ts'

const [, , path = '', mode = ''] = process.argv
const store = openSqliteStore({ path, random: seededRandom(1), program: '0.1.0' })
const say = (text: string) => writeSync(1, `${text}\n`)

const refusalOf = (act: () => unknown) => {
  try {
    act()
  } catch (error) {
    if (error instanceof StoreError) return error
    throw error
  }
  return null
}

for (let rev = 1; ; rev += 1) {
  const next = turn(rev, [put.machine(machine('a', { counter: rev }))], [append('o', rev, 1)])
  const failure = refusalOf(() => store.commit(next))
  if (failure !== null) {
    const again = refusalOf(() => store.commit(next))
    say(
      JSON.stringify({
        kind: failure.kind,
        sql: failure.sql,
        message: failure.message,
        committed: rev - 1,
        next: again?.kind,
        nextMessage: again?.message,
      }),
    )
    process.exit(0)
  }
  if (mode !== 'until-it-fails') say(String(rev))
}
