/** The secret with which smith shows who it is, read from its file each time it is needed. */
import { readFileSync, statSync } from 'node:fs'
import { ServiceNowError } from './failures.ts'

export function readSecret(file: string): string {
  try {
    const mode = statSync(file).mode & 0o777
    if ((mode & 0o007) !== 0)
      throw new Error(`${file} is open to everybody (mode ${mode.toString(8)}); run: chmod o= ${file}`)
    const text = readFileSync(file, 'utf8').trim()
    if (text === '') throw new Error(`${file} is empty`)
    return text
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    throw new ServiceNowError(
      'auth',
      `the secret of ServiceNow (change.servicenow.secret_file) can't be used: ${problem}`,
      {
        cause: error,
      },
    )
  }
}
