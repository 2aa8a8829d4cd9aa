/**
 * How a program knows that it speaks with its own coordinator: by the public key of the TLS certificate, never by
 * who signed the certificate. Called by the agent, by its enrolment and by the CLI. No byte of ours goes out on a
 * connection whose key is not the pinned one.
 */
import { X509Certificate, createHash } from 'node:crypto'
import { isIP } from 'node:net'
import { type TLSSocket, connect } from 'node:tls'
import { type Refusal, RefusedError } from './errors.ts'

/** What a pin looks like: SHA-256 in base64url, without padding. */
export const PIN_PATTERN = /^[A-Za-z0-9_-]{43}$/

/** The pin of a certificate (PEM, DER or parsed): SHA-256 of its public key (SPKI, DER), base64url. */
export function pinOf(certificate: string | Uint8Array | X509Certificate): string {
  const parsed = certificate instanceof X509Certificate ? certificate : new X509Certificate(certificate)
  const spki = parsed.publicKey.export({ type: 'spki', format: 'der' })
  return createHash('sha256').update(spki).digest('base64url')
}

export type PinnedTarget = {
  readonly host: string
  readonly port: number
  readonly pin: string
  /** From the start to a verified connection. */
  readonly timeoutMs: number
}

/**
 * Opens a TLS 1.3 connection to the holder of the pinned key. Rejects with a RefusedError: `unavailable` when there
 * is no connection, `not-allowed` when the key is another one. In the handshake of TLS 1.3 the server proves its
 * key before the client sends any data, so what is checked here is what the connection is encrypted for.
 */
export function connectPinned(target: PinnedTarget): Promise<TLSSocket> {
  const where = `${target.host}:${target.port}`
  return new Promise((resolve, reject) => {
    const socket = connect({
      host: target.host,
      port: target.port,
      // An address is no server name (RFC 6066 section 3).
      ...(isIP(target.host) === 0 ? { servername: target.host } : {}),
      minVersion: 'TLSv1.3',
      // Trust comes from the pin below. A chain would add nothing and would fail for a key made on the spot.
      rejectUnauthorized: false,
      ALPNProtocols: ['http/1.1'],
    })
    const fail = (refusal: Refusal) => {
      clearTimeout(timer)
      socket.destroy()
      reject(new RefusedError([refusal]))
    }
    const timer = setTimeout(() => fail(outOfReach(where, `no answer in ${target.timeoutMs} ms`)), target.timeoutMs)
    const onError = (error: Error) => fail(outOfReach(where, error.message))
    const onClose = () => fail(outOfReach(where, 'the connection was closed in the handshake'))
    socket.on('error', onError)
    socket.on('close', onClose)
    socket.once('secureConnect', () => {
      const refusal = checkPin(socket, target.pin, where)
      if (refusal !== null) {
        fail(refusal)
        return
      }
      clearTimeout(timer)
      socket.off('error', onError)
      socket.off('close', onClose)
      resolve(socket)
    })
  })
}

/** Null when the peer of a finished handshake holds the pinned key. */
export function checkPin(socket: TLSSocket, pin: string, where: string): Refusal | null {
  const certificate = socket.getPeerX509Certificate()
  const found = certificate === undefined ? 'none' : pinOf(certificate)
  if (found === pin) return null
  return {
    kind: 'not-allowed',
    message: `${where} does not hold the pinned key: it showed ${found}, expected was ${pin}`,
    subject: where,
    remedy:
      'If the coordinator was given a new key, make a new token there and enrol again; if it was not, something stands between this machine and it.',
  }
}

function outOfReach(where: string, problem: string): Refusal {
  return {
    kind: 'unavailable',
    message: `the coordinator at ${where} is out of reach: ${problem}`,
    subject: where,
    remedy: 'Check the address, that the coordinator runs, and that nothing in between blocks the port.',
  }
}
