/**
 * Checks the journal's chain in a file: a sealed backup, or a database that no coordinator has open. Called by the
 * coordinator's own command line. It reads, and changes nothing.
 */
import Database from 'better-sqlite3'
import { closeSync, openSync, readSync } from 'node:fs'
import type { AuditVerdict } from '../../protocol/audit.ts'
import { RefusedError } from '../../protocol/errors.ts'
import { createVerifier } from '../domain/chain.ts'
import { withDatabaseOf } from './sealed.ts'
import { sha256 } from './sha256.ts'
import { chainOfFile } from './sqlite.ts'
import { messageOf } from './store-error.ts'

const SQLITE_HEAD = 'SQLite format 3\0'

/** The passphrase is asked for only where there is something to open with it. */
export async function verifyFile(options: {
  readonly file: string
  readonly head: string | null
  readonly passphrase: () => string
}): Promise<AuditVerdict> {
  const { file, head } = options
  const check = (path: string) => {
    const verifier = createVerifier(sha256, head)
    try {
      for (const row of chainOfFile(path)) verifier.take(row)
    } catch (error) {
      if (!(error instanceof Database.SqliteError)) throw error
      throw unreadable(file, messageOf(error))
    }
    return verifier.verdict()
  }
  return isDatabase(file) ? check(file) : withDatabaseOf({ file, passphrase: options.passphrase() }, check)
}

function isDatabase(file: string): boolean {
  let descriptor: number
  try {
    descriptor = openSync(file, 'r')
  } catch (error) {
    throw unreadable(file, messageOf(error))
  }
  try {
    const head = Buffer.alloc(SQLITE_HEAD.length)
    readSync(descriptor, head, 0, head.length, 0)
    return head.toString('latin1') === SQLITE_HEAD
  } finally {
    closeSync(descriptor)
  }
}

function unreadable(file: string, why: string): RefusedError {
  const remedy =
    'name a backup, or the database of a coordinator that is stopped; one that runs is asked with `smith audit verify`'
  return new RefusedError([{ kind: 'unavailable', message: `${file} can't be read: ${why}`, remedy }])
}
