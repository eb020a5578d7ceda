"""Writes the golden vectors of golden.rs with PyPI `gguf` 0.19, which is not our code.

    python3 kernels/tests/data/make.py
"""
import os

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES

here = os.path.dirname(os.path.abspath(__file__))
rng=np.random.default_rng(7)
rows=[]
rows.append(rng.standard_normal((24,32)).astype(np.float32))
rows.append((rng.standard_normal((8,32))*10.0**rng.integers(-6,5,(8,1))).astype(np.float32))
adv=[]
adv.append(np.zeros(32))
z=np.zeros(32); z[5]=-1; adv.append(z)
z=np.zeros(32); z[5]=1; z[9]=-1; adv.append(z)          # tie of magnitude
z=np.zeros(32); z[5]=-1; z[9]=1; adv.append(z)
adv.append(np.arange(32)-15.5)
adv.append((np.arange(32)-16)*0.5)
adv.append(np.full(32,3.25)); adv.append(np.full(32,-3.25))
adv.append(127*np.ones(32)-np.arange(32)*0.5)            # halves: round away
adv.append(np.where(np.arange(32)%2==0,127,-1)*1.0*(1-np.arange(32)/64))
z=np.arange(32)+0.5; z[31]=127; adv.append(z)
z=-(np.arange(32)+0.5); z[31]=-127; adv.append(z)
adv.append(rng.standard_normal(32)*1e-40)                # denormal
adv.append(rng.standard_normal(32)*1e-37)
adv.append(rng.standard_normal(32)*1e-30)
adv.append(rng.standard_normal(32)*6e-8)                 # denormal f16 scale
adv.append(rng.standard_normal(32)*1e-6)
adv.append(rng.standard_normal(32)*7e6)                  # f16 scale near/over the top
adv.append(rng.standard_normal(32)*1e30)
adv.append(np.linspace(-1.6e38,1.6e38,32))
adv.append(np.linspace(65000,66000,32))
adv.append(np.where(np.arange(32)<16,1e-45,0))
adv.append(np.linspace(0,15,32)); adv.append(np.linspace(-8,7,32))
rows.append(np.array(adv).astype(np.float32))
x=np.concatenate(rows); 
out=open(f'{here}/quantize_x.f32','wb'); out.write(x.astype('<f4').tobytes()); out.close()
import warnings; warnings.simplefilter('ignore')
for t in [T.F16,T.BF16,T.Q8_0,T.Q4_0,T.Q4_1,T.Q5_0,T.Q5_1,T.TQ1_0,T.TQ2_0,T.MXFP4]:
    q=quants.quantize(x.reshape(-1,256),t) if t not in (T.F16,) else x.astype(np.float16)
    open(f'{here}/quantize_{t.name}.bin','wb').write(np.ascontiguousarray(q).tobytes())
# special numbers for float types
s=np.array([0x7f800000,0xff800000,0x7fc00000,0x7f800001,0xffc12345,0x7f7fffff,0x00000001,0x80000001,0x33000000,0x33000001,0x477fefff,0x477ff000,0x38800000,0x387fe000,0x387ff000,0x3f808000,0x3f818000,0x3f80ffff,0x00008000,0x00018000,0x7fffffff,0xffffffff,0x80000000,0x3f801000,0x3f803000,0x33c00000,0x33800000,0x477fe000,0x00007fff,0x7f808000,0x7f807fff,0x3f800000],dtype=np.uint32)
fx=s.view(np.float32).reshape(1,32)
open(f'{here}/special_x.f32','wb').write(fx.tobytes())
open(f'{here}/special_BF16.bin','wb').write(quants.quantize(fx,T.BF16).tobytes())
open(f'{here}/special_F16.bin','wb').write(fx.astype(np.float16).tobytes())
for t,bb in [(T.F16,64),(T.BF16,64),(T.Q8_0,34),(T.Q4_0,18),(T.Q4_1,20)]:
    n=96
    b=rng.integers(0,256,(n,bb),dtype=np.uint8)
    # all byte values, and special scales
    for i,sc in enumerate([0x0000,0x8000,0x0001,0x83ff,0x0400,0x7bff,0xfbff,0x7c00,0xfc00,0x3c00]):
        b[i,0:2]=[sc&255,sc>>8]
        if t==T.Q4_1: b[i,2:4]=[(sc>>3)&255,(sc>>8)&0x7b]
    if t in (T.Q8_0,):
        for i in range(8): b[16+i,2:]=np.arange(32*i,32*i+32,dtype=np.uint8)
    d=quants.dequantize(b,t) if t!=T.F16 else b.view(np.float16).astype(np.float32)
    open(f'{here}/dequantize_{t.name}.bin','wb').write(b.tobytes())
    open(f'{here}/dequantize_{t.name}.f32','wb').write(np.ascontiguousarray(d).astype('<f4').tobytes())

# Every quantized type: the checksum of many blocks of pseudo-random bytes, scales included, that
# golden.rs makes again. PyPI `gguf` 0.19 has no decoder for Q1_0 and Q2_0; theirs is below.
def q1_0(b):
    d=b[:,:2].copy().view(np.float16).astype(np.float32)
    return d*(np.unpackbits(b[:,2:],axis=1,bitorder='little').astype(np.float32)*2-1)
def q2_0(b):
    d=b[:,:2].copy().view(np.float16).astype(np.float32)
    c=(b[:,2:,None]>>np.array([0,2,4,6],np.uint8))&3
    return d*(c.reshape(len(b),64).astype(np.float32)-1)
def blocks(n,size):
    v=np.arange(n*size,dtype=np.uint64)*np.uint64(0x9e3779b97f4a7c15)
    v=(v^(v>>np.uint64(32)))*np.uint64(0xd6e8feb86659fd93)
    return (v>>np.uint64(56)).astype(np.uint8).reshape(n,size)
names='Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS IQ1_M TQ1_0 TQ2_0 MXFP4 NVFP4 Q1_0 Q2_0'
own={'Q1_0':(q1_0,128,18),'Q2_0':(q2_0,64,18)}
with open(f'{here}/dequantize.txt','w') as out:
    for name in names.split():
        if name in own:
            f,length,size=own[name]
        else:
            t=T[name]; length,size=GGML_QUANT_SIZES[t]; f=lambda b,t=t: quants.dequantize(b,t)
        n=1<<18>>(length.bit_length()-1)
        bits=np.ascontiguousarray(f(blocks(n,size))).astype(np.float32).view(np.uint32).ravel().astype(np.uint64)
        bits[(bits&0x7fffffff)>0x7f800000]=0x7fc00000
        total=(bits*(2*np.arange(bits.size,dtype=np.uint64)+1)).sum(dtype=np.uint64)
        out.write(f'{name} {n} {int(total):016x}\n')
