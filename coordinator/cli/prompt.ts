/**
 * Questions to the person at the terminal: yes or no, and a secret without echo. Called by `patch`, `approve`,
 * `login` and `backup`; each of them checks first that somebody is there. The terminal is always given back as it
 * was found.
 */
import { createInterface } from 'node:readline/promises'
import { ClientError, EXIT, usageError } from '../client/failure.ts'
import { type Io, isInteractive, write } from './io.ts'

const SECRET_BYTES_MAX = 4096

/** Only `y` or `yes` is yes; the end of the input is no. */
export async function askYes(io: Io, question: string, signal: AbortSignal): Promise<boolean> {
  const lines = createInterface({ input: io.stdin, output: io.stdout })
  const ended = new Promise<string>((resolve) => lines.once('close', () => resolve('')))
  try {
    const answer = await Promise.race([lines.question(`${question} [y/N] `, { signal }), ended])
    return /^\s*(y|yes)\s*$/i.test(answer)
  } finally {
    lines.close()
  }
}

/** From the terminal without echo, else the first line of stdin; never from argv or the environment. */
export async function readSecret(io: Io, label: string): Promise<string> {
  const secret = isInteractive(io) ? await typedSecret(io, label) : await pipedSecret(io)
  if (secret !== '') return secret
  throw usageError(`no ${label} was given`, `Type it when asked, or give it on stdin: smith ... < FILE`)
}

async function pipedSecret(io: Io): Promise<string> {
  let text = ''
  io.stdin.setEncoding('utf8')
  for await (const chunk of io.stdin) {
    text += String(chunk)
    if (text.length > SECRET_BYTES_MAX || text.includes('\n')) break
  }
  return (text.split('\n')[0] ?? '').trim()
}

async function typedSecret(io: Io, label: string): Promise<string> {
  const { stdin } = io
  let rest = ''
  await write(io.stdout, `${label}: `)
  stdin.setRawMode(true)
  stdin.setEncoding('utf8')
  stdin.resume()
  try {
    return await new Promise<string>((resolve, reject) => {
      let typed = ''
      stdin.on('data', (chunk: string | Buffer) => {
        const keys = Array.from(String(chunk))
        for (const [at, key] of keys.entries()) {
          if (key === '\x03') return reject(new ClientError(EXIT.refused, 'interrupted', 'Nothing was done.'))
          if (key === '\r' || key === '\n' || key === '\x04') {
            // What came in the same breath belongs to the next question.
            rest = keys.slice(at + 1).join('')
            return resolve(typed)
          }
          if (key === '\x7f' || key === '\b') typed = typed.slice(0, -1)
          else if (key === '\x15') typed = ''
          else if (key >= ' ' && typed.length < SECRET_BYTES_MAX) typed += key
        }
        return undefined
      })
      stdin.once('end', () => resolve(typed))
    })
  } finally {
    stdin.setRawMode(false)
    stdin.removeAllListeners('data')
    stdin.pause()
    if (rest !== '') stdin.unshift(rest, 'utf8')
    await write(io.stdout, '\n')
  }
}
