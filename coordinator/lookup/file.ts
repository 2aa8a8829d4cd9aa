/** Reads a whole file, within a bound, and only a file: a pipe or a device would never end. */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'

export async function readWhole(file: string, bytesMax: number): Promise<string> {
  const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    const found = await handle.stat()
    if (!found.isFile()) throw new Error(`${file} is no file`)
    if (found.size > bytesMax) throw new Error(`${file} has more than ${bytesMax} bytes`)
    return new TextDecoder('utf-8', { fatal: true }).decode(await handle.readFile())
  } finally {
    await handle.close()
  }
}
