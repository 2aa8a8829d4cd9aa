/** A secret with which smith shows another system who it is, read from its file each time it is needed. */
import { readFileSync, statSync } from 'node:fs'

/** Throws what is wrong with the file. */
export function readSecret(file: string): string {
  const mode = statSync(file).mode & 0o777
  if ((mode & 0o007) !== 0)
    throw new Error(`${file} is open to everybody (mode ${mode.toString(8)}); run: chmod o= ${file}`)
  const text = readFileSync(file, 'utf8').trim()
  if (text === '') throw new Error(`${file} is empty`)
  return text
}
