/**
 * Secrets by file or systemd credential (systemd.exec(5), LoadCredential=), never from argv or the environment. Read
 * each time they are needed, so that a new one is good without a restart.
 */
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

const CREDENTIAL = 'credential:'

export function readSecret(path: string): string {
  const file = path.startsWith(CREDENTIAL) ? credentialFile(path.slice(CREDENTIAL.length)) : path
  if ((statSync(file).mode & 0o007) !== 0)
    throw new Error(`${file} holds a secret and others can use it: chmod o= ${file}`)
  const text = readFileSync(file, 'utf8').trim()
  if (text === '') throw new Error(`${file} is empty`)
  return text
}

function credentialFile(name: string): string {
  const folder = process.env['CREDENTIALS_DIRECTORY']
  if (folder === undefined) throw new Error(`no systemd credentials here: ${name} needs LoadCredential= in the unit`)
  return join(folder, name)
}
